"""Accuracy and loss of both splits over steps, a panel per arm: where they part, and when they meet again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from gpt2lab.report import numbers
from gpt2lab.report.canvas import BLUE, GREY, LOG_LOSS_RATIO, ORANGE, Picture, label_line, log_loss_axis, reference
from gpt2lab.report.comparison_page import curves_figure
from gpt2lab.report.comparison_page.curves_figure import Series, draw_series, drawn_range

MOST_PANELS = 24
_TITLE_CHARS = 34
_TRAIN_DASH = (0, (4, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSeries:
    """One arm: the curves of both splits, by seed."""

    label: str
    train: Series
    val: Series


def draw_splits(
    arms: Sequence[SplitSeries],
    folder: Path,
    *,
    file: str,
    what: str,
    columns: int,
    lines: Sequence[tuple[str, float]] = (),
    accuracy: bool = False,
) -> Picture | None:
    """Write `file` into `folder`: validation solid, training dashed, one panel per arm in `columns` columns.

    `lines` are known values to draw in. None where no arm has two steps.
    """
    shown = [arm for arm in arms if len(drawn_range(arm.val.curves)) > 1][:MOST_PANELS]
    if not shown:
        return None
    both = [series for arm in shown for series in (arm.train, arm.val)]
    log = curves_figure.spans_decades(both)
    log_loss = not accuracy and _spans_losses(both, log)
    columns = min(columns, len(shown))
    height = 1.7 if len(shown) > columns else 2.5
    titles = [arm.label for arm in shown]
    with curves_figure.step_panels(folder / file, what, titles, columns, 0.9, height, chars=_TITLE_CHARS) as panels:
        for axes, arm in zip(panels, shown, strict=True):
            draw_series(axes, arm.train, log=log, color=ORANGE, linestyle=_TRAIN_DASH)
            draw_series(axes, arm.val, log=log, color=BLUE)
        first = panels[0]
        curves_figure.label_steps(first, log)
        first.figure.supylabel(what + (", log scale" if log_loss else ""), fontsize=10)
        if accuracy:
            first.set_ylim(-0.03, 1.06)
        if log_loss:
            log_loss_axis(first)
        low, high = first.get_ylim()
        drawn = [(name, value) for name, value in lines if low <= value <= high]
        for axes in panels:
            for _, value in drawn:
                reference(axes, value)
        _name_lines(first, drawn, accuracy)
        handles = [line for line in first.lines if line.get_label() in ("training", "validation")]
        first.figure.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=8.5, handlelength=3)
    caption = f"{what}: validation solid, training dashed. {curves_figure.seeds_words([arm.val for arm in shown])}"
    for said, told in (("Grey lines", drawn), ("Outside of the axis", [line for line in lines if line not in drawn])):
        caption += f" {said}: {'; '.join(f'{name} {numbers.loss(value)}' for name, value in told)}." if told else ""
    caption += " Step 0 is left out by the log axis." if log else ""
    if len(shown) < len(arms):
        caption += f" {len(shown)} of {len(arms)} arms are drawn."
    return Picture(file, _alt(shown, what, accuracy), caption)


def _name_lines(axes: Axes, lines: Sequence[tuple[str, float]], accuracy: bool) -> None:
    """Name the lines in the first panel, once: the panels share their axes. Lines too close for two names share one."""
    if accuracy:  # at the top edge: only below it is there room, and at the left nothing has been learned yet
        for name, value in lines:
            at = (0, -3)
            transform = axes.get_yaxis_transform()
            axes.annotate(name, (0.01, value), at, transform, "offset points", va="top", fontsize=8, color=GREY)
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    groups: list[list[tuple[str, float, float]]] = []
    for name, value in sorted(lines, key=lambda line: line[1]):
        height = float(to_axes.transform((axes.get_xlim()[1], value))[1])
        if groups and height - groups[-1][-1][2] < 0.12:
            groups[-1].append((name, value, height))
        else:
            groups.append([(name, value, height)])
    for group in groups:
        label_line(axes, ", ".join(_short(name) for name, _, _ in group), group[-1][1])
    for text in axes.texts:
        text.set_in_layout(False)  # a long name must not push its panel aside


def _short(name: str) -> str:
    """The beginning of a line's name, all of which stands in the caption."""
    return name.partition(",")[0].partition(" over ")[0].removesuffix(" loss")


def _spans_losses(series: Sequence[Series], log: bool) -> bool:
    values = [value for arm in series for curve in arm.curves for value in curve.since(int(log)).values]
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_LOSS_RATIO


def _alt(arms: Sequence[SplitSeries], what: str, accuracy: bool) -> str:
    show = numbers.share if accuracy else numbers.loss
    ends = []
    for arm in arms:
        found = {
            name: drawn_range(series.curves) for name, series in (("training", arm.train), ("validation", arm.val))
        }
        told = [f"{name} {show(float(curves.mean[-1]))}" for name, curves in found.items() if len(curves)]
        ends.append(f"{arm.label}: {', '.join(told)} at step {int(found['validation'].steps[-1]):,}")
    return f"{what} over steps, means over seeds where the lines end. {'; '.join(ends)}."
