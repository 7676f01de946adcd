"""What a step of the mini model costs by the width of its bands: the case `curve` of tools/bench.py.

Beside the losses that experiment=band_cost archives: runs one after another see a machine in different moods, and one
process that takes the widths in turns does not.
"""

from dataclasses import replace
from typing import Any

from bench_peers import MINI, our_engine, random_batch, update
from bench_turns import in_turns, ratio

WIDTHS = (32, 64, 128, 256, 512)


def bench_curve() -> dict[str, Any]:
    """Measure updates with bands of each width on both layers against the dense update."""
    batch = random_batch(MINI, 16, 128)
    engines = {str(w): our_engine(replace(MINI, fc1_band=w, fc2_band=w), batch) for w in (0, *WIDTHS)}
    times = in_turns({width: update(engine, batch) for width, engine in engines.items()}, rounds=30)
    dense = times.pop("0")
    return {f"mini {width}": ratio(seconds, dense) for width, seconds in times.items()}
