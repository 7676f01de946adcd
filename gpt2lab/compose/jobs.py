"""Handing each composed job to a task: one, or those of a grid."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gpt2lab.compose.configs import CONF, default_name, to_run_config
from gpt2lab.compose.grid import check_grid
from gpt2lab.compose.resume import with_resumed
from gpt2lab.compose.wording import hydra_errors
from gpt2lab.errors import TRACEBACK_VARIABLE, ArchiveError, ConfigError, Gpt2labError
from gpt2lab.schema import RunConfig

# Flags that print and run nothing.
INFORMATION = {
    "--help",
    "-h",
    "--hydra-help",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--resolve",
    "--version",
    "-sc",
    "--shell-completion",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One composed run: what a task receives."""

    config: RunConfig
    run_dir: Path
    overrides: list[str]
    number: int | None  # place in a multirun; None for a single run


Task = Callable[[Job], int]  # returns the exit code


def main(task: Task, arguments: Sequence[str] | None = None) -> int:
    """Compose what the command line asks for, hand each job to `task`, and return the exit code.

    In a multirun every job is composed before the first one starts; they run one after the other, the same run only
    once, and the code is that of the first job that failed.
    Any error a user can cause is printed as one line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    codes: list[int] = []
    repeats: dict[int, int] = {}

    def run_job(raw: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        run_dir = Path(os.path.relpath(hydra_config.runtime.output_dir))
        if run_dir.parts[:1] == ("..",):
            run_dir = Path(hydra_config.runtime.output_dir)
        is_sweep = hydra_config.mode == RunMode.MULTIRUN
        number = int(hydra_config.job.num) if is_sweep else None
        if number in repeats:
            _remove_unused(run_dir)
            print(f"job {number} is the same run as job {repeats[number]}: left out")
            return
        with error_line(codes):
            try:
                config = to_run_config(raw)
            except ConfigError:
                _remove_unused(run_dir)
                raise
            config.name = config.name or default_name(hydra_config.runtime.choices)
            overrides = [item for item in hydra_config.overrides.task if not item.startswith(("resume=", "+resume="))]
            codes.append(task(Job(config=config, run_dir=run_dir, overrides=overrides, number=number)))
        if codes and codes[-1] == 130:
            raise KeyboardInterrupt  # the person wants the rest of a sweep to stop too

    argv = sys.argv
    try:
        with error_line(codes):
            arguments = with_resumed(arguments)
            repeats |= check_grid(arguments) if not INFORMATION & set(arguments) else {}
            sys.argv = [argv[0], *arguments]
            with hydra_errors():
                hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_job)()
    finally:
        sys.argv = argv
    return next((code for code in codes if code), 0)


@contextmanager
def error_line(codes: list[int]) -> Iterator[None]:
    """Turn a user's error into one line on stderr and its exit code; anything else stays a traceback."""
    try:
        yield
    except Gpt2labError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"gpt2lab: {' '.join(str(error).split())}", file=sys.stderr)
        codes.append(error.exit_code)
    except OSError as error:
        if os.environ.get(TRACEBACK_VARIABLE) or error.filename is None:
            raise
        print(f"gpt2lab: {error.filename}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        codes.append(ArchiveError.exit_code)
    except KeyboardInterrupt:
        if not codes or codes[-1] != 130:
            print("gpt2lab: interrupted", file=sys.stderr)
            codes.append(130)


def _remove_unused(run_dir: Path) -> None:
    """Remove the directory that Hydra made for a job whose config was refused."""
    if {path.name for path in run_dir.iterdir()} <= {".hydra"}:
        shutil.rmtree(run_dir)
