"""A sweep from its grid to its last job: plan it, run its jobs, print their status."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from gpt2lab.compose import Grid, launch
from gpt2lab.errors import ConfigError, error_line
from gpt2lab.record.columns import result_names
from gpt2lab.record.identity import code_hash
from gpt2lab.record.lock import held
from gpt2lab.record.rundir import RunDir, now_utc
from gpt2lab.record.source_archive import find_source_root
from gpt2lab.record.sweep import Sweep, SweepJob, read_state, write_sweep
from gpt2lab.schema import RunConfig, SweepMode
from gpt2lab.sweep.board import Board
from gpt2lab.sweep.plan import Agenda, find_earlier, list_jobs, new_directory, plan_sweep
from gpt2lab.sweep.worker import STOPS, Execute, Worker

ROOT = Path("runs/sweeps")
PATIENCE_S = 60.0  # while another start looks for its directory


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """The result of one start of a sweep."""

    sweep: Sweep
    has_ended: bool  # every job has run; otherwise the rest waits for another start
    exit_code: int  # of the first job without a result; 1: unfinished jobs; 130 and 141: interrupted


def run_sweep(
    grid: Grid, *, check: Callable[[RunConfig], dict[str, str]], execute: Execute, console: Console
) -> SweepResult:
    """Run the missing jobs of the sweep that `grid` describes; existing results stay unchanged.

    `check` returns {file: sha256} of the data of a run, or raises the error that would stop it; `execute` trains
    one. Raises ConfigError, DataError, EngineError or ArchiveError before the first job
    starts; a job that fails later says so in its own directory only.
    """
    config = grid.jobs[0].config
    if config.sweep.metric not in result_names():
        expected = ", ".join(result_names())
        raise ConfigError(f"sweep.metric={config.sweep.metric}: no result of a run; expected one of {expected}")
    code = code_hash(find_source_root())
    jobs, repeats = list_jobs(grid, check)
    with _planned(grid, config, jobs, code) as agenda:
        started = now_utc()
        board = Board(agenda.sweep, (job.number for job in agenda.pending), started, console)
        board.say_plan()
        for line in (*repeats, *agenda.notes):
            console.print(line)
        worker = Worker(
            execute=execute,
            directory=agenda.sweep.path,
            code_hash=code,
            pending=tuple(job.number for job in agenda.pending),
            started=started,
            fail_fast=config.sweep.fail_fast,
            parallel=grid.parallel,
        )
        with ExitStack() as stack:
            codes = stack.enter_context(_watched(board)) if grid.parallel else []
            stop_code = _hand_out(agenda, worker, grid, console)
        board.say_end()
        return _result(agenda, stop_code or (codes[-1] if codes else 0))


@contextmanager
def _planned(grid: Grid, config: RunConfig, jobs: list[SweepJob], code: str) -> Iterator[Agenda]:
    """Lock the directory of the sweep (the given one, that of an earlier start, or a new one) and write its plan."""
    name = config.name or "sweep"
    with ExitStack() as stack:
        # Two starts of a new sweep at once must not both find no earlier one.
        ROOT.mkdir(parents=True, exist_ok=True)
        with held(ROOT, patience_s=PATIENCE_S):
            directory = grid.directory
            if directory is None and config.sweep.mode is not SweepMode.force:
                directory = find_earlier(ROOT, name, jobs)
            directory = directory or new_directory(ROOT, name)
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(directory))
            agenda = plan_sweep(directory, grid, jobs, code_hash=code)
            write_sweep(agenda.sweep)
        yield agenda


def _hand_out(agenda: Agenda, worker: Worker, grid: Grid, console: Console) -> int:
    """Run the pending jobs; return the exit code of what stopped them, 0 when nothing did."""
    waiting = list(agenda.pending)
    while waiting:
        try:
            launch(worker, [(job.overrides, job.folder) for job in waiting], agenda.sweep.path, grid.of_hydra)
            return 0
        except KeyboardInterrupt:
            return 130
        except SystemExit as stop:
            if stop.code not in STOPS:
                raise
            return int(stop.code)
        except Exception as error:  # a killed worker ends the launcher; the other jobs still run
            console.print(f"the launcher ended with {type(error).__name__}: {error}")
        left = [job for job in waiting if read_state(agenda.sweep.run_dir(job)).word == "not started"]
        waiting = left if len(left) < len(waiting) else []
    return 0


@contextmanager
def _watched(board: Board) -> Iterator[list[int]]:
    """Print the progress of jobs in other processes; the list gets CLOSED_PIPE when nobody reads that."""
    codes: list[int] = []

    def watch() -> None:
        with error_line(codes):
            board.watch(done)

    done, watcher = threading.Event(), threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield codes
    finally:
        done.set()
        watcher.join()


def _result(agenda: Agenda, code: int) -> SweepResult:
    sweep = agenda.sweep
    states = [(job, read_state(sweep.run_dir(job)).word) for job in sweep.jobs]
    has_ended = not code and all(word != "not started" for _, word in states)
    for job, word in states:
        if code == 0 and word not in ("finished", "not started"):
            run = RunDir(sweep.run_dir(job))
            code = int(run.read_status().get("exit_code") or 1)
    return SweepResult(sweep=sweep, has_ended=has_ended, exit_code=code or (0 if has_ended else 1))
