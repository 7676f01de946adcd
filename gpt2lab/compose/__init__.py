"""From YAML files and command-line overrides to a RunConfig: the only package that knows Hydra and OmegaConf."""

from gpt2lab.compose.configs import compose, to_run_config
from gpt2lab.compose.evaluation import Requested, compose_requested, parse_requested
from gpt2lab.compose.grid import Grid
from gpt2lab.compose.jobs import main
from gpt2lab.compose.launch import Job, launch
from gpt2lab.compose.wording import known_keys
