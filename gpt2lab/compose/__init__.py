"""From YAML files and command-line overrides to a RunConfig: the only package that knows Hydra and OmegaConf."""

from gpt2lab.compose.configs import CONF, compose, default_name, to_run_config
from gpt2lab.compose.evaluation import Requested, compose_requested, parse_requested
from gpt2lab.compose.grid import Grid, GridJob
from gpt2lab.compose.jobs import TRACEBACK_VARIABLE, error_line, main
from gpt2lab.compose.launch import Job, Task, launch
from gpt2lab.compose.wording import known_keys

__all__ = [
    "CONF",
    "TRACEBACK_VARIABLE",
    "Grid",
    "GridJob",
    "Job",
    "Requested",
    "Task",
    "compose",
    "compose_requested",
    "default_name",
    "error_line",
    "known_keys",
    "launch",
    "main",
    "parse_requested",
    "to_run_config",
]
