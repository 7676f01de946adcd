"""Training: from a RunConfig to a finished run directory."""

from gpt2lab.train.session import Outcome, execute

__all__ = ["Outcome", "execute"]
