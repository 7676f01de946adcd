"""Training: from a RunConfig to a finished run directory."""

from gpt2lab.train.session import Outcome, execute
from gpt2lab.train.setup import check_run

__all__ = ["Outcome", "check_run", "execute"]
