"""Sweeps: the jobs of a grid as one thing that can be stopped, started again and archived."""

from gpt2lab.sweep.plan import Identity
from gpt2lab.sweep.run import Result, run_sweep

__all__ = ["Identity", "Result", "run_sweep"]
