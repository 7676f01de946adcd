"""Archives of thousands of experiments, made by formula: for what must not slow down as an archive grows."""

import json
import shutil
from pathlib import Path

from gpt2lab.archive.manifest import write_manifest
from gpt2lab.report.inputs import read_inputs
from gpt2lab.report.summary import summarise_inputs
from tests.run_records import text_rows, write_record

SEEDS = 5  # runs of one config


def write_archive(root: Path, count: int) -> Path:
    """Write `count` experiments below `root`, five seeds of each config, every file as a snapshot leaves it.

    All have the rows and the report of the first; names, seeds, learning rates and losses are their own.
    """
    first = write_record(root / "00001-run-0-seed-0", text_rows(), samples={"0.txt": "once upon a time"})
    summary = summarise_inputs(read_inputs(first), "run 0")
    config = (first / "config.yaml").read_text(encoding="utf-8")
    provenance = json.loads((first / "provenance.json").read_text(encoding="utf-8"))
    (first / "README.md").write_text("# run 0\n", encoding="utf-8")
    (first / "notes.md").write_text("# Notes\n", encoding="utf-8")
    for number in range(count):
        setting, seed = divmod(number, SEEDS)
        name = f"run {setting} seed {seed}"
        path = root / f"{number + 1:05d}-{name.replace(' ', '-')}"
        if path != first:
            shutil.copytree(first, path)
        rate = 1e-4 * (1 + setting % 40)
        own = config.replace("learning_rate: 0.001", f"learning_rate: {rate}")
        (path / "config.yaml").write_text(own.replace("\nseed: 0\n", f"\nseed: {seed}\n"), encoding="utf-8")
        loss = 1.5 + 0.01 * (setting % 40) + 0.002 * seed
        results = {**summary, "name": name, "val_loss": loss, "date": f"2026-03-{1 + number % 28:02d}T10:00:00Z"}
        (path / "summary.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
        (path / "provenance.json").write_text(json.dumps(provenance | {"run_id": f"{number:032x}"}, indent=2))
    for path in root.iterdir():
        write_manifest(path)
    return root
