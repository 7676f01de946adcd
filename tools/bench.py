"""Timed checks: what a step, the tracking around it and a start cost on this machine.

python tools/bench.py bands masks peers curve tracking   the rows of the README's table
python tools/bench.py costs sharing                      what the choice of tiles and of trees rests on
python tools/bench.py                                    all of those, startup and archive
python tools/bench.py --commit ...                       and write them as JSON into tools/benchmarks/
python tools/bench.py profile                            the most costly operations of the steps

Ratios are of medians measured in turns within one process: single times on a shared machine mean little. That helps
against a machine that changes its speed, and not against programs that run beside: leave it alone meanwhile.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from bench_archive import bench_archive
from bench_band_costs import bench_band_costs
from bench_bands import bench_bands
from bench_curve import bench_curve
from bench_masks import bench_masks
from bench_peers import bench_peers
from bench_profile import bench_profile
from bench_rows import BENCHMARKS, ROWS
from bench_sharing import bench_sharing
from bench_turns import quartiles
from checkout import read_commit
from rich.console import Console

from gpt2lab.compose import compose
from gpt2lab.engine.torch.device import device_name
from gpt2lab.record.metrics import MetricsWriter
from gpt2lab.record.tracker import start_tracker
from gpt2lab.schema import TrackerName
from gpt2lab.train.progress import Display
from gpt2lab.train.schedule import learning_rate
from gpt2lab.train.setup import Parts, prepare_parts

ROUNDS = 48  # of each variant, in turns
BUSY = 0.7  # processes that ran on average in the last minute
UPDATES = 10  # per round: one logged row, as train.log_every=10 has


def updates(parts: Parts, after: Callable[[int, Any, float], None] | None = None) -> float:
    """Do one round of updates and return the seconds per update; `after` is called as the loop calls its hooks."""
    config, engine = parts.config, parts.engine
    started = time.perf_counter()
    for _ in range(UPDATES):
        rate = learning_rate(engine.step, max_steps=10**6, optim=config.optim, schedule=config.schedule)
        engine.train_step(*parts.batches.batch(engine.step), learning_rate=rate)
        if after:
            after(engine.step, engine.result(), rate)
    return (time.perf_counter() - started) / UPDATES


def row_of(step: int, result: Any, rate: float) -> dict[str, float | int | None]:
    """Return a logged row as the loop makes it."""
    return {
        "step": step,
        "tokens": step * 2048,
        "train_loss": result.loss,
        "lr": rate,
        "grad_norm": result.grad_norm,
        "step_ms": 1.0,
        "tokens_per_s": 1.0,
        "elapsed_s": 1.0,
        "peak_mem_mib": 1.0,
    }


@contextlib.contextmanager
def tracked(folder: Path, *, wandb: bool) -> Iterator[Callable[[int, Any, float], None]]:
    """Give the hook that does what a run does around an update: metrics, W&B or none, live display."""
    config = compose(["tracker=wandb" if wandb else "tracker=none"])
    assert (config.tracker.name is TrackerName.wandb) == wandb
    folder.mkdir()
    console = Console(file=io.StringIO(), force_terminal=True)
    tracker = start_tracker(
        config.tracker, run_dir=folder, name="bench", run_config={}, tags=[], resume=False, warn=print
    )
    with MetricsWriter(folder / "metrics.csv") as metrics, Display(console, first_step=0, max_steps=10**6) as display:

        def after(step: int, result: Any, rate: float) -> None:
            display.advance(step)
            if step % UPDATES == 0:
                row = row_of(step, result, rate)
                metrics.append(row)
                tracker.log(row)
                display.show(row)

        yield after
    tracker.finish(True)


def bench_tracking() -> dict[str, Any]:
    """Measure the mini model's update bare, with metrics and display, and with W&B offline as well."""
    parts = prepare_parts(compose(["tracker=none", "schedule=constant"]))
    updates(parts)  # warm-up
    times: dict[str, list[float]] = {"bare": [], "metrics and display": [], "W&B offline too": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with tracked(folder / "off", wandb=False) as without, tracked(folder / "on", wandb=True) as with_wandb:
            hooks = {"bare": None, "metrics and display": without, "W&B offline too": with_wandb}
            for _ in range(ROUNDS):
                for name, hook in hooks.items():
                    times[name].append(updates(parts, hook))
    bare = times["bare"]
    return {
        name: {"step_ms": 1000 * statistics.median(seconds), **quartiles(bare, seconds)}
        for name, seconds in times.items()
    }


def bench_startup() -> dict[str, Any]:
    """Measure from the command to the first row of metrics.csv, imports and composition included."""
    seconds = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "gpt2lab.run", "archive.mode=off", "sample.count=0", "hydra.run.dir=run"]
            overrides = ["train.max_steps=1", "train.eval_batches=1", "train.log_every=1"]
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
            started = time.perf_counter()
            process = subprocess.Popen([*command, *overrides], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
            metrics = Path(folder) / "run" / "metrics.csv"
            while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3):
                if process.poll() is not None:
                    break
                time.sleep(0.005)
            seconds.append(time.perf_counter() - started)
            if process.wait():
                raise SystemExit("the run that was to be timed failed")
    return {"seconds_to_first_step": statistics.median(seconds), "smallest": min(seconds), "largest": max(seconds)}


CASES = {
    "bands": bench_bands,
    "masks": bench_masks,
    "peers": bench_peers,
    "tracking": bench_tracking,
    "curve": bench_curve,
    "costs": bench_band_costs,
    "sharing": bench_sharing,
    "startup": bench_startup,
    "archive": bench_archive,
}
ON_REQUEST = {"profile": bench_profile}  # figures of a moment, not to be kept


def print_rows(results: dict[str, Any]) -> None:
    """Print the rows of the README's table that were measured, and which miss their bound."""
    for row in ROWS:
        found = results.get(row.group, {}).get(row.key)
        if found:
            verdict = "" if row.met_by(found["ratio"]) else f"   MISSES {row.words}"
            spread = f"({found['ratio_q1']:.3f} to {found['ratio_q3']:.3f})"
            print(f"{found['ratio']:7.3f} {spread:18}  {row.case} / {row.against}{verdict}")


def main() -> None:
    """Run the chosen cases and print them; with --commit, write them to tools/benchmarks/ too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=", ".join(CASES | ON_REQUEST))
    parser.add_argument("--commit", action="store_true", help="write the figures into tools/benchmarks/")
    arguments = parser.parse_args()
    chosen = arguments.cases or list(CASES)
    cases = CASES | ON_REQUEST
    if unknown := set(chosen) - set(cases):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; expected {', '.join(cases)}")
    if arguments.commit and set(chosen) & set(ON_REQUEST):
        parser.error(f"--commit: {', '.join(ON_REQUEST)} is not kept")
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"the load is {load:.1f}: other programs run beside, and may halve a ratio or double it", file=sys.stderr)
    commit = read_commit()  # before the cases, which take minutes
    results = {name: cases[name]() for name in chosen}
    device = device_name(torch.device("cpu"))
    now = datetime.now(UTC)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit,
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "results": results,
    }
    print(json.dumps(record, indent=2))
    print_rows(results)
    if not arguments.commit:
        return
    slug = "-".join(device.lower().split())
    BENCHMARKS.mkdir(exist_ok=True)
    path = BENCHMARKS / f"{slug}-{now:%Y-%m-%d}-{'-'.join(chosen)}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
