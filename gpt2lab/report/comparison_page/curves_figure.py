"""Losses of several arms over steps: one pair of axes for few arms, a panel for each beside the baseline for many."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gpt2lab.record.columns import column
from gpt2lab.report import numbers
from gpt2lab.report.canvas import GREY, MAX_POINTS, Picture, drawing, label_text, line_style, reference, step_axis
from gpt2lab.report.comparison.trajectories import SeedRange, seed_range
from gpt2lab.report.inputs import Curve

MOST_TOGETHER = 6  # arms in one pair of axes
MOST_PANELS = 12  # more are no more looked at, and the table and the forest have every arm
PANEL_COLUMNS = 3
LOG_STEPS_FROM = 5  # evaluations after step 0, below which a log axis has too few points to be worth it
DECADES = 1.5  # between the first and the last evaluation, from which steps are shown on a log axis
LEGEND_CHARS = 44  # of one line in a legend of two columns

References = Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one arm measured: a curve per seed."""

    label: str
    curves: tuple[Curve, ...]


def drawn_range(curves: Sequence[Curve]) -> SeedRange:
    """Return the range over `curves`, at as many of their common steps as a figure shows."""
    return seed_range(curves, MAX_POINTS)


def draw_series(axes: Axes, series: Series, *, log: bool = False, **style: Any) -> None:
    """Draw the mean of a series as one line, the range over its seeds shaded around it.

    A seed that went on after the others ended is drawn alone from there, thinly.
    """
    found = drawn_range([curve.since(1) if log else curve for curve in series.curves])
    if len(found):
        marker = "o" if len(found) <= 12 else None
        axes.plot(found.steps, found.mean, label=label_text(series.label, LEGEND_CHARS), marker=marker, **style)
        if len(series.curves) > 1:
            axes.fill_between(found.steps, found.low, found.high, color=style.get("color"), alpha=0.16, linewidth=0)
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
    steps = np.unique([step for arm in series for curve in arm.curves for step in curve.since(1).steps])
    return len(steps) >= LOG_STEPS_FROM and bool(np.log10(steps[-1] / steps[0]) >= DECADES)


def seeds_words(series: Iterable[Series]) -> str:
    """Say in words what the lines and the shaded ranges are."""
    counts = sorted({len(arm.curves) for arm in series})
    if not counts or counts[-1] == 1:
        return "One seed per line: no range over seeds."
    n = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"Lines are means over {n} seeds; shaded: the range over seeds."


def draw_curves(
    series: Sequence[Series],
    folder: Path,
    *,
    file: str,
    what: str,
    unit: str,
    references: References = (),
    fit: float = 0.5,
    show: Callable[[float], str] = numbers.loss,
) -> Picture | None:
    """Write `file` into `folder`: `what`, in `unit`, of every series over steps, the baseline first.

    Up to six arms share two panels, the whole run and its second half; more get a panel each, beside the baseline,
    fitted to what lies beyond the share `fit` of the steps. `show` writes the values of the alt text. None where no
    series has two steps.
    """
    shown = [arm for arm in series if len(drawn_range(arm.curves)) > 1]
    if not shown:
        return None
    together, others = len(shown) <= MOST_TOGETHER, len(shown) - 1
    draw = _draw_together if together else _draw_panels
    draw(folder / file, what, shown, f"{what} ({unit})" if unit else what, references, fit)
    if together:
        caption = f"{what} over steps; on the right its second half. {seeds_words(shown)}"
    else:
        of = "an arm" if others <= MOST_PANELS else f"one of the first {MOST_PANELS} of {others} arms"
        caption = f"{what} over steps. {seeds_words(shown)} Each panel is {of} beside the baseline (black), "
        caption += shown[0].label
        caption += "; the axis is fitted to the second half, so earlier values lie outside." if fit else "."
    return Picture(file, _alt(shown, what, show), caption)


def draw_metric(series: Sequence[Series], folder: Path, metric: str, references: References = ()) -> Picture | None:
    """Write curves.svg, a metric of every series, as `draw_curves` does."""
    what, unit, show = column(metric).label, column(metric).unit, numbers.formatter(metric)
    return draw_curves(series, folder, file="curves.svg", what=what, unit=unit, show=show, references=references)


def _alt(series: Sequence[Series], what: str, show: Callable[[float], str]) -> str:
    ends = []
    for arm in series[: MOST_PANELS + 1]:
        found = drawn_range(arm.curves)
        spread = ""
        if len(arm.curves) > 1:
            spread = f" (seeds {show(float(found.low[-1]))} to {show(float(found.high[-1]))})"
        ends.append(f"{arm.label} {show(float(found.mean[-1]))}{spread} at step {int(found.steps[-1]):,}")
    return f"{what} over steps. Where the lines end: {'; '.join(ends)}."


@contextmanager
def _lines(path: Path, what: str, series: Sequence[Series], height: float, columns: int) -> Iterator[list[Axes]]:
    """Yield panels with all series in each, above a legend, and write them to `path`."""
    height += 0.22 * math.ceil(len(series) / 2)
    with drawing(path, f"{what} over steps", height, ncols=columns, squeeze=False) as [panels]:
        for axes in panels:
            for number, arm in enumerate(series):
                draw_series(axes, arm, **line_style(number))
            step_axis(axes, log=False, ticks=4 if columns > 1 else 6)
        handles, labels = panels[0].get_legend_handles_labels()
        look = {"loc": "outside lower center", "ncols": 2, "fontsize": 8.5, "handlelength": 3}
        panels[0].figure.legend(handles, labels, **look)
        yield panels


def _draw_together(
    path: Path, what: str, series: Sequence[Series], label: str, references: References, fit: float
) -> None:
    with _lines(path, what, series, 3.3, 2) as (whole, half):
        last = _last_step(series)
        _fit(half, series, from_step=last * fit)
        half.set_xlim(last / 2, last * 1.005)
        whole.set_ylabel(label)
        _draw_references(whole, references)


def _draw_panels(
    path: Path, what: str, series: Sequence[Series], label: str, references: References, fit: float
) -> None:
    baseline, others = series[0], series[1 : MOST_PANELS + 1]
    with step_panels(path, what, [arm.label for arm in others], PANEL_COLUMNS, 0.5, 1.75) as panels:
        for axes, arm in zip(panels, others, strict=True):
            draw_series(axes, baseline, **line_style(0))
            draw_series(axes, arm, **(line_style(1) | {"linestyle": "-"}))
        _fit(panels[0], series, from_step=_last_step(series) * fit)
        panels[0].figure.supylabel(label, fontsize=10)
        label_steps(panels[0], log=False, ticks=4)
        panels[0].set_xlim(left=0)
        for axes in panels:
            _draw_references(axes, references)


def _last_step(series: Sequence[Series]) -> int:
    return max(int(curve.steps[-1]) for arm in series for curve in arm.curves)


def _fit(axes: Axes, series: Sequence[Series], from_step: float) -> None:
    """Fit the value axis to what lies at `from_step` or later."""
    values = np.concatenate([curve.since(math.ceil(from_step)).values for arm in series for curve in arm.curves])
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _draw_references(axes: Axes, references: References) -> None:
    low, high = axes.get_ylim()
    for name, value in references:
        if low <= value <= high:
            reference(axes, value, f"{name} {numbers.loss(value)}")


def draw_gap(series: Sequence[Series], folder: Path) -> Picture | None:
    """Write gap.svg: validation loss minus training loss, measured the same way, over steps."""
    shown = [arm for arm in series if len(drawn_range(arm.curves)) > 1]
    what = "Validation minus training loss"
    if not shown or len(shown) > MOST_TOGETHER:
        return draw_curves(shown, folder, file="gap.svg", what=what, unit="nats", fit=0)
    with _lines(folder / "gap.svg", "Gap", shown, 2.9, 1) as (axes,):
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_ylabel("Validation − training loss (nats)")
    caption = f"Gap between the splits, validation minus training loss measured the same way. {seeds_words(shown)}"
    return Picture("gap.svg", _alt(shown, what, numbers.loss), caption)
