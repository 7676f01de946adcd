"""Losses of several arms over steps: one pair of axes for few arms, a panel for each beside the baseline for many."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gpt2lab.report import numbers
from gpt2lab.report.canvas import GREY, WIDTH, Picture, label_line, line_style, step_axis, style, write_svg
from gpt2lab.report.comparison_page.series import Series, draw_series, drawn_range, reference, seeds_words, step_panels

MOST_TOGETHER = 6  # arms in one pair of axes
MOST_PANELS = 12  # more are no more looked at, and the table and the forest have every arm
PANEL_COLUMNS = 3

References = Sequence[tuple[str, float]]


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
    shown = [each for each in series if len(drawn_range(each.curves)) > 1]
    if not shown:
        return None
    together, others = len(shown) <= MOST_TOGETHER, len(shown) - 1
    with style():
        draw = _draw_together if together else _draw_panels
        write_svg(
            draw(shown, f"{what} ({unit})" if unit else what, references, fit), folder / file, f"{what} over steps"
        )
    if together:
        caption = f"{what} over steps; on the right its second half. {seeds_words(shown)}"
    else:
        of = "an arm" if others <= MOST_PANELS else f"one of the first {MOST_PANELS} of {others} arms"
        caption = f"{what} over steps. {seeds_words(shown)} Each panel is {of} beside the baseline (black), "
        caption += shown[0].label
        caption += "; the axis is fitted to the second half, so earlier values lie outside." if fit else "."
    return Picture(file, _alt(shown, what, show), caption)


def _alt(series: Sequence[Series], what: str, show: Callable[[float], str]) -> str:
    ends = []
    for each in series[: MOST_PANELS + 1]:
        found = drawn_range(each.curves)
        spread = ""
        if len(each.curves) > 1:
            spread = f" (seeds {show(float(found.low[-1]))} to {show(float(found.high[-1]))})"
        ends.append(f"{each.label} {show(float(found.mean[-1]))}{spread} at step {int(found.steps[-1]):,}")
    return f"{what} over steps. Where the lines end: {'; '.join(ends)}."


def _draw_lines(series: Sequence[Series], height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with all series in each of its panels, and a legend below."""
    rows = math.ceil(len(series) / 2)
    figure = Figure(figsize=(WIDTH, height + 0.22 * rows), layout="constrained")
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        for number, each in enumerate(series):
            draw_series(axes, each, **line_style(number))
        step_axis(axes, log=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8.5, handlelength=3)
    return figure, panels


def _draw_together(series: Sequence[Series], label: str, references: References, fit: float) -> Figure:
    figure, (whole, half) = _draw_lines(series, 3.3, 2)
    last = _last_step(series)
    _fit(half, series, from_step=last * fit)
    half.set_xlim(last / 2, last * 1.005)
    for axes in (whole, half):
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    whole.set_ylabel(label)
    _draw_references(whole, references)
    return figure


def _draw_panels(series: Sequence[Series], label: str, references: References, fit: float) -> Figure:
    baseline, others = series[0], series[1 : MOST_PANELS + 1]
    figure, panels = step_panels([each.label for each in others], PANEL_COLUMNS, 0.5, 1.75)
    for axes, each in zip(panels, others, strict=True):
        draw_series(axes, baseline, **line_style(0))
        draw_series(axes, each, **(line_style(1) | {"linestyle": "-"}))
    _fit(panels[0], series, from_step=_last_step(series) * fit)
    step_axis(panels[0], log=False)
    panels[0].set_xlabel("")
    panels[0].xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    panels[0].set_xlim(left=0)
    for axes in panels:
        _draw_references(axes, references)
    figure.supylabel(label, fontsize=10)
    figure.supxlabel("Step (optimizer updates)", fontsize=10)
    return figure


def _last_step(series: Sequence[Series]) -> int:
    return max(int(curve.steps[-1]) for each in series for curve in each.curves)


def _fit(axes: Axes, series: Sequence[Series], from_step: float) -> None:
    """Fit the value axis to what lies at `from_step` or later."""
    values = np.concatenate([curve.since(math.ceil(from_step)).values for each in series for curve in each.curves])
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _draw_references(axes: Axes, references: References) -> None:
    low, high = axes.get_ylim()
    for name, value in references:
        if low <= value <= high:
            reference(axes, value)
            label_line(axes, f"{name} {numbers.loss(value)}", value)


def draw_gap(series: Sequence[Series], folder: Path) -> Picture | None:
    """Write gap.svg: validation loss minus training loss, measured the same way, over steps."""
    shown = [each for each in series if len(drawn_range(each.curves)) > 1]
    what = "Validation minus training loss"
    if not shown or len(shown) > MOST_TOGETHER:
        return draw_curves(shown, folder, file="gap.svg", what=what, unit="nats", fit=0)
    with style():
        figure, (axes,) = _draw_lines(shown, 2.9, 1)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_ylabel("Validation − training loss (nats)")
        write_svg(figure, folder / "gap.svg", "Gap over steps")
    caption = f"Gap between the splits, validation minus training loss measured the same way. {seeds_words(shown)}"
    return Picture("gap.svg", _alt(shown, what, numbers.loss), caption)
