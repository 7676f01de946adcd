"""Timed commands on an archive of thousands of experiments: the case `archive` of tools/bench.py."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # the generator of the archive is one of the tests' files

from tests.many_experiments import write_archive  # noqa: E402

EXPERIMENTS = 2000
COMPARED = 20
ROUNDS = 9  # of each command, in turns
COMMANDS = {
    f"list {EXPERIMENTS}": ["list"],
    f"list {EXPERIMENTS} --where a result": ["list", "--where", "val_loss<1.6"],
    f"list {EXPERIMENTS} --where a config key": ["list", "--where", "optim.learning_rate<5e-4"],
    f"compare {COMPARED} of {EXPERIMENTS}": ["compare", *map(str, range(1, COMPARED + 1))],
}


def bench_archive() -> dict[str, Any]:
    """Measure whole commands, from start to exit of the process, after one round that is not counted."""
    code = "from gpt2lab.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        root = write_archive(Path(folder) / "experiments", EXPERIMENTS)
        for turn in range(ROUNDS + 1):
            for name, arguments in COMMANDS.items():
                command = [sys.executable, "-c", code, *arguments, "--root", str(root)]
                started = time.perf_counter()
                subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    return {
        name: {"median_s": statistics.median(times), "smallest_s": min(times), "largest_s": max(times)}
        for name, times in seconds.items()
    }
