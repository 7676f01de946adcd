"""Console output of a sweep: a line when a job starts and when it ends, with the progress.

Everything is read from the directories of the jobs, so it does not depend on which process runs them.
"""

import threading
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console

from gpt2lab.errors import ArchiveError
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import JobState, Sweep, SweepJob, count_states, read_state

POLL_S = 1.0  # between two looks at the jobs of other processes
ENDED = ("finished", "diverged", "failed")


class Board:
    """Prints the progress of the jobs `pending` (their numbers) of a start at `started` (ISO 8601)."""

    def __init__(self, sweep: Sweep, pending: Iterable[int], started: str, console: Console) -> None:
        self._sweep, self._started, self._print = sweep, started, console.print
        numbers = set(pending)
        self._pending = [job for job in sweep.jobs if job.number in numbers]

    def say_plan(self) -> None:
        """Print how many jobs there are, and how many are kept."""
        jobs, pending = len(self._sweep.jobs), len(self._pending)
        kept = f", {jobs - pending} of them kept" if pending < jobs else ""
        self._print(f"sweep    {self._sweep.path}: {_count(jobs)}{kept}")

    def say_started(self, job: SweepJob) -> None:
        """Print that a job starts."""
        self._print(f"job {job.number}  {job.label}  ({self._progress()})")

    def say_ended(self, job: SweepJob) -> None:
        """Print the status of a job that has ended."""
        state = read_state(self._sweep.run_dir(job))
        reason = self._result(job) if state.word == "finished" else state.reason
        self._print(f"job {job.number} {state.word}{f': {reason}' if reason else ''}")

    def watch(self, done: threading.Event) -> None:
        """Print the progress of jobs in other processes until `done` is set, and once more after it."""
        last_words = {job.number: read_state(self._sweep.run_dir(job)).word for job in self._pending}
        is_over = False
        while not is_over:
            is_over = done.wait(POLL_S)
            for job in self._pending:
                word = read_state(self._sweep.run_dir(job)).word
                if word == last_words[job.number]:
                    continue
                last_words[job.number] = word
                if word == "running":
                    self.say_started(job)
                else:
                    self.say_ended(job)

    def say_end(self) -> None:
        """Print the totals of the sweep, and the jobs without a result."""
        states = [(job, read_state(self._sweep.run_dir(job))) for job in self._sweep.jobs]
        self._print(f"\nsweep    {self._sweep.path}: {_count(len(states))}, {tally(state for _, state in states)}")
        for job, state in states:
            if state.word != "finished":
                reason = f": {state.reason}" if state.reason else ""
                self._print(f"  job {job.number}  {job.label}  {state.word}{reason}")

    def _result(self, job: SweepJob) -> str:
        metric = self._sweep.metric
        try:
            rows = read_metrics(RunDir(self._sweep.run_dir(job)).metrics)
        except ArchiveError:
            return ""
        measured = [row for row in rows if row.get(metric) is not None]
        return f"{metric} {measured[-1][metric]:.4f} at step {measured[-1]['step']:,}" if measured else ""

    def _progress(self) -> str:
        """Return how many jobs are done, and the time left at the same rate."""
        words = {job.number: read_state(self._sweep.run_dir(job)).word for job in self._sweep.jobs}
        done = sum(word in ENDED for word in words.values())
        now_done = sum(words[job.number] in ENDED for job in self._pending)
        left = len(self._pending) - now_done
        text = f"{done} of {len(words)} done"
        if not now_done:
            return text
        seconds = (datetime.now(UTC) - datetime.fromisoformat(self._started)).total_seconds() / now_done * left
        return f"{text}, about {seconds / 60:.0f} min left" if seconds >= 90 else f"{text}, about {seconds:.0f} s left"


def tally(states: Iterable[JobState]) -> str:
    """Count states in words: 16 finished, 1 diverged, 1 failed."""
    return ", ".join(f"{count} {word}" for word, count in count_states(state.word for state in states).items())


def _count(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs} jobs"
