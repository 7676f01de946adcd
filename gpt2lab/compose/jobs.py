"""From a command line to one run, or to the jobs of a grid."""

import re
import sys
from collections.abc import Callable, Sequence

import hydra
from omegaconf import DictConfig

from gpt2lab.compose.configs import CONF
from gpt2lab.compose.grid import Grid, expand
from gpt2lab.compose.launch import ForHydra, Task
from gpt2lab.compose.resume import with_resumed
from gpt2lab.compose.wording import hydra_errors
from gpt2lab.errors import error_line

# Flags that print and run nothing.
_INFORMATION = re.compile(r"--(help|hydra-help|cfg|info|resolve|version|shell-completion)|-(h|c|i|sc)")


def main(task: Task, sweep: Callable[[Grid], int], arguments: Sequence[str] | None = None) -> int:
    """Compose the command line and pass the run to `task`, or the grid to `sweep`; return the exit code.

    Any error is printed as one line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    codes: list[int] = []
    with error_line(codes):
        arguments = with_resumed(arguments)
        grid = None if any(map(_INFORMATION.fullmatch, arguments)) else expand(arguments)
        codes.append(_run_one(task, arguments) if grid is None else sweep(grid))
    return codes[-1]


def _run_one(task: Task, arguments: list[str]) -> int:
    codes: list[int] = []

    def run_job(raw: DictConfig) -> None:
        with error_line(codes):  # inside the job: for an exception that leaves it, Hydra prints its own line first
            codes.append(ForHydra(task)(raw))

    argv = sys.argv
    try:
        sys.argv = [argv[0], *arguments]
        with hydra_errors():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_job)()
    finally:
        sys.argv = argv
    return codes[0] if codes else 0
