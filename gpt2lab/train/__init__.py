"""Training: from a RunConfig to a finished run directory."""

from gpt2lab.train.check import RunChecks
from gpt2lab.train.session import execute
