"""Deliberate mistakes, each a plausible bug that the test suite must find; test_mistakes.py makes them one by one."""

from mistakes import archive, engines, kernels, model_and_data, report, settings, tools, training
from mistakes.mistake import Mistake

PARTS = (settings, model_and_data, engines, kernels, training, archive, report, tools)
MISTAKES: tuple[Mistake, ...] = tuple(mistake for part in PARTS for mistake in part.MISTAKES)

__all__ = ["MISTAKES", "Mistake"]
