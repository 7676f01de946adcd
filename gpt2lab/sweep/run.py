"""A sweep from its grid to its last job: plan, hand out, say what became of it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from gpt2lab.compose import Grid, launch
from gpt2lab.record.lock import acquire
from gpt2lab.record.rundir import RunDir, now_utc
from gpt2lab.record.source_archive import find_source_root, source_hash
from gpt2lab.record.sweep import Sweep, read_state, write_sweep
from gpt2lab.schema import RunConfig, SweepMode
from gpt2lab.sweep.board import HAD_THEIR_TURN, Board
from gpt2lab.sweep.plan import Agenda, Identity, find_earlier, identify_jobs, new_directory, plan_sweep
from gpt2lab.sweep.worker import Execute, Worker

ROOT = Path("runs/sweeps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a start of a sweep came to."""

    sweep: Sweep
    complete: bool  # every job finished, failed or diverged
    interrupted: bool  # by a person: the rest waits for another start
    ran: int  # jobs of this start
    exit_code: int  # of the first job without a result, else 0


def run_sweep(grid: Grid, *, identify: Callable[[RunConfig], Identity], execute: Execute, console: Console) -> Result:
    """Run what is missing of the sweep that `grid` asks for, and leave everything else of it as it is.

    `identify` checks that a config can run, and raises what the person should read. Raises ConfigError, DataError or
    ArchiveError before the first job starts; a job that fails later says so in its own directory only.
    """
    config = grid.jobs[0].config
    identities = identify_jobs(grid, identify)
    directory = _directory(grid, config, identities)
    with _held(directory):
        command = ("python", "-m", "gpt2lab.run", "-m", *grid.overrides)
        source = source_hash(find_source_root())
        agenda = plan_sweep(directory, grid, identities, source_hash=source, command=command)
        write_sweep(agenda.sweep)
        started = now_utc()
        board = Board(agenda.sweep, (job.number for job in agenda.pending), started, console)
        board.say_plan()
        for place, first in grid.repeats:
            console.print(f"job {place} of the grid is the same run as job {first}: left out", markup=False)
        for note in agenda.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        worker = Worker(
            execute=execute,
            directory=directory,
            pending=tuple(job.number for job in agenda.pending),
            started=started,
            fail_fast=config.sweep.fail_fast,
            parallel=grid.parallel,
        )
        interrupted = bool(agenda.pending) and _hand_out(agenda, worker, grid, board, console)
        board.say_end()
        return _result(agenda, interrupted)


def _directory(grid: Grid, config: RunConfig, identities: list[Identity]) -> Path:
    name = config.name or "sweep"
    directory = grid.directory()
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    earlier = None if config.sweep.mode is SweepMode.force else find_earlier(ROOT, name, identities)
    return earlier or new_directory(ROOT, name)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    lock = acquire(directory)
    try:
        yield
    finally:
        os.close(lock)


def _hand_out(agenda: Agenda, worker: Worker, grid: Grid, board: Board, console: Console) -> bool:
    """Run the pending jobs; return whether a person stopped them."""
    jobs = [(job.overrides, job.folder) for job in agenda.pending]
    done = threading.Event()
    watcher = threading.Thread(target=board.watch, args=(done,), daemon=True)
    if grid.parallel:
        watcher.start()
    try:
        launch(worker, jobs, agenda.sweep.path, grid.of_hydra)
    except KeyboardInterrupt:
        return True
    except Exception as error:  # of a cluster, say: what its jobs came to stands on the disk all the same
        console.print(f"the launcher ended with {type(error).__name__}: {error}", markup=False, soft_wrap=True)
    finally:
        done.set()
        if grid.parallel:
            watcher.join()
    return False


def _result(agenda: Agenda, interrupted: bool) -> Result:
    sweep = agenda.sweep
    states = [(job, read_state(sweep.run_dir(job))) for job in sweep.jobs]
    complete = all(state.word in HAD_THEIR_TURN for _, state in states)
    code = 130 if interrupted else 0
    for job, state in states:
        if code == 0 and state.word != "finished":
            run = RunDir(sweep.run_dir(job))
            code = int(run.read_status().get("exit_code") or 1) if run.status.is_file() else 1
    return Result(sweep=sweep, complete=complete, interrupted=interrupted, ran=len(agenda.pending), exit_code=code)
