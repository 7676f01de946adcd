"""Sweeps: the jobs of a grid as one thing that can be stopped, started again and archived."""

from gpt2lab.sweep.run import SweepResult, run_sweep
