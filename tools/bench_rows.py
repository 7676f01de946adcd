"""The rows of the README's table of speed: what is measured against what, and how much there should be of it.

The figures are in tools/benchmarks/, written by `python tools/bench.py --commit`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent / "benchmarks"


@dataclass(frozen=True, slots=True)
class Row:
    """`group` is a case of tools/bench.py, `key` where its result is; ratios are times of `against` over ours."""

    group: str
    key: str
    case: str
    against: str
    bound: float
    at_most: bool = False  # a ratio of our times, with something over without it

    def met_by(self, ratio: float) -> bool:
        """Return whether a measured ratio keeps to the bound."""
        return ratio <= self.bound if self.at_most else ratio >= self.bound

    @property
    def words(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.bound:g}"


MASKED = "PyTorch, dense and masked"
PLAIN = "PyTorch, the whole batch"
STEP = "PyTorch, as nanoGPT does it"
DENSE = "our dense step"
ROWS = (
    Row("bands", "mlp 256", "MLP forward and backward, C = 768, bands of 256, 1,024 rows", MASKED, 4.0),
    Row("bands", "mlp 512", "the same, bands of 512", MASKED, 2.5),
    Row("bands", "124M 256", "GPT-2 124M step, 4 x 64 tokens, bands of 256", MASKED, 1.6),
    Row("bands", "124M 256 own", "the same", f"{DENSE} (`engine.banded_products=false`)", 1.4),
    Row("curve", "mini 64", "mini model step, 16 x 128 tokens, bands of 64", DENSE, 1.0),
    Row("curve", "mini 256", "the same, bands of 256", DENSE, 1.0),
    Row("masks", "answer", "equations mod 97, 2 layers, 128 channels, full batch, answer only", PLAIN, 4.0),
    Row("masks", "all", "the same, all positions", PLAIN, 1.3),
    Row("peers", "124M", "dense GPT-2 124M step, 4 x 64 tokens", STEP, 0.97),
    Row("peers", "mini", "dense mini step, 16 x 128 tokens", STEP, 0.97),
    Row("tracking", "W&B offline too", "mini model, tracked, with metrics and display", "the bare loop", 1.02, True),
)


def measured_rows(folder: Path = BENCHMARKS) -> Iterator[tuple[Row, dict[str, Any] | None, dict[str, Any]]]:
    """Yield each row with its figures and the record they are in, from the newest record that has the row."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    records = sorted((r for r in records if "results" in r), key=lambda record: record["date"], reverse=True)
    for row in ROWS:
        found = (r for r in records if row.key in r["results"].get(row.group, {}))
        record = next(found, {})
        yield row, record["results"][row.group][row.key] if record else None, record
