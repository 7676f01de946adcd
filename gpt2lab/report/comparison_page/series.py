"""Curves of several seeds as one line with their range, and the axes that they share."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gpt2lab.report.canvas import MAX_POINTS, drawing, label_text, step_axis
from gpt2lab.report.comparison.trajectories import SeedRange, seed_range
from gpt2lab.report.inputs import Curve

LOG_STEPS_FROM = 5  # evaluations after step 0, below which a log axis has too few points to be worth it
DECADES = 1.5  # between the first and the last evaluation, from which steps are shown on a log axis

LEGEND_CHARS = 44  # of one line in a legend of two columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one arm measured: a curve per seed."""

    label: str
    curves: tuple[Curve, ...]


def drawn_range(curves: Sequence[Curve]) -> SeedRange:
    """Return the range over `curves`, at as many of their common steps as a figure shows."""
    return seed_range(curves, MAX_POINTS)


def draw_series(axes: Axes, series: Series, *, log: bool = False, fill: float = 0.16, **style: Any) -> None:
    """Draw the mean of a series as one line, the range over its seeds shaded around it.

    A seed that went on after the others ended is drawn alone from there, thinly.
    """
    found = drawn_range([curve.since(1) if log else curve for curve in series.curves])
    if len(found):
        marker = "o" if len(found) <= 12 else None
        axes.plot(found.steps, found.mean, label=label_text(series.label, LEGEND_CHARS), marker=marker, **style)
        if len(series.curves) > 1:
            axes.fill_between(found.steps, found.low, found.high, color=style.get("color"), alpha=fill, linewidth=0)
    end = int(found.steps[-1]) if len(found) else int(log)
    for curve in series.curves:
        rest = curve.since(end)
        if len(rest) > 1:
            axes.plot(rest.steps, rest.values, **{**style, "linewidth": 0.8, "alpha": 0.6})


@contextmanager
def step_panels(
    path: Path, what: str, titles: Sequence[str], columns: int, margin: float, height: float, *, chars: int = 32
) -> Iterator[list[Axes]]:
    """Yield a panel for each of `titles`, all with the same axes, and write them to `path`: `what` over steps.

    The figure is `margin` inches high, and `height` more for each row.
    """
    rows = math.ceil(len(titles) / columns)
    grid: dict[str, Any] = {"nrows": rows, "ncols": columns, "sharex": True, "sharey": True, "squeeze": False}
    with drawing(path, f"{what} over steps", margin + height * rows, **grid) as drawn:
        panels = drawn.ravel()
        for number, (axes, title) in enumerate(zip(panels, titles, strict=False)):
            axes.set_title(label_text(title, chars), fontsize=8.5, loc="left")
            axes.tick_params(labelsize=8.5)
            if number + columns >= len(titles):  # the lowest panel of its column
                axes.tick_params(labelbottom=True)
        for axes in panels[len(titles) :]:
            axes.set_visible(False)
        yield list(panels[: len(titles)])


def label_steps(first: Axes, log: bool, ticks: int = 6) -> None:
    """Give the panels of a figure, `first` among them, an axis of steps that is labelled once."""
    step_axis(first, log, ticks)
    first.figure.supxlabel(first.get_xlabel(), fontsize=10)
    first.set_xlabel("")


def spans_decades(series: Iterable[Series]) -> bool:
    """Whether the steps after step 0 span enough decades for a log axis."""
    steps = np.unique([step for each in series for curve in each.curves for step in curve.since(1).steps])
    return len(steps) >= LOG_STEPS_FROM and bool(np.log10(steps[-1] / steps[0]) >= DECADES)


def seeds_words(series: Iterable[Series]) -> str:
    """Say in words what the lines and the shaded ranges are."""
    counts = sorted({len(each.curves) for each in series})
    if not counts or counts[-1] == 1:
        return "One seed per line: no range over seeds."
    n = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"Lines are means over {n} seeds; shaded: the range over seeds."
