"""One job of a sweep, in whatever process a launcher runs it. It reads the sweep from its directory."""

from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from gpt2lab.compose import Job
from gpt2lab.errors import CLOSED_PIPE, ArchiveError, ConfigError, error_line, is_closed_pipe
from gpt2lab.record.identity import code_hash
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.source_archive import find_source_root
from gpt2lab.record.sweep import Sweep, read_state, read_sweep
from gpt2lab.sweep.board import Board
from gpt2lab.sweep.plan import can_continue

STOPS = (130, CLOSED_PIPE)  # exit codes of a job after which no other job starts
LOG = "output.txt"  # output of a job without a terminal of its own

Execute = Callable[[Job, Console], int]  # trains, and returns the exit code

_stopped: str | None = None  # start of the sweep that was interrupted in this process, which runs no other job of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The task of a launcher: trains a job of the sweep in `directory`. It can be pickled, so launchers can send it."""

    execute: Execute
    directory: Path
    code_hash: str  # of the code that the sweep was planned with
    pending: tuple[int, ...]  # numbers of the jobs of this start
    started: str  # its moment, ISO 8601
    fail_fast: bool
    parallel: bool  # other jobs run at the same time

    def __call__(self, job: Job) -> int:
        """Run the job unless the sweep is stopping; return its exit code. The run directory records the result."""
        sweep = read_sweep(self.directory)
        if _stopped == self.started or (self.fail_fast and self._has_failed(sweep)):
            return 0
        job.config.tracker.group = job.config.tracker.group or self.directory.name
        if can_continue(job.run_dir):
            job.config.resume = str(job.run_dir)
        if self.parallel:
            with (job.run_dir / LOG).open("a", encoding="utf-8") as log, redirect_stderr(log):
                return self._run(job, Console(file=log, width=120))
        codes: list[int] = []
        with error_line(codes):
            codes.append(self._run_and_say(job, sweep))
        if codes[-1] in STOPS:
            raise SystemExit(codes[-1])  # for the remaining jobs too; Hydra would keep an Exception to itself
        return codes[-1]

    def _run_and_say(self, job: Job, sweep: Sweep) -> int:
        console = Console(highlight=False, markup=False, soft_wrap=True)
        board = Board(sweep, self.pending, self.started, console)
        planned = next(one for one in sweep.jobs if Path(one.folder).name == job.run_dir.name)
        print()
        board.say_started(planned)
        code = self._run(job, console)
        board.say_ended(planned)
        return code

    def _run(self, job: Job, console: Console) -> int:
        global _stopped
        codes: list[int] = []
        with error_line(codes):
            try:
                if code_hash(find_source_root()) != self.code_hash:
                    raise ConfigError("the code changed while the sweep ran: start the sweep again")
                codes.append(self.execute(job, console))
            except Exception as error:
                if not is_closed_pipe(error):
                    _fail(job.run_dir, error)
                raise
        if codes[-1] in STOPS:
            _stopped = self.started
        return codes[-1]

    def _has_failed(self, sweep: Sweep) -> bool:
        runs = (RunDir(sweep.run_dir(one)) for one in sweep.jobs)
        failed = (run for run in runs if read_state(run.path).word in ("failed", "diverged"))
        return any(str(run.read_status()["ended"]) >= self.started for run in failed)


def _fail(run_dir: Path, error: Exception) -> NoReturn:
    """Raise the error, after writing down why a job failed before it had a record, or could not be continued."""
    run = RunDir(run_dir)
    has_record = run.status.is_file()
    if not has_record or run.read_status()["state"] != "failed":
        hold = RunDir.reopen if has_record else RunDir.claim
        with suppress(ArchiveError), hold(run_dir) as held:  # where another process holds it, the error still tells
            held.fail(error)
    raise error
