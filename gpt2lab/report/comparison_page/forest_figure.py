"""Differences to the baseline with their intervals, the noise floor behind them, and the verdict in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gpt2lab.report.canvas import BLUE, GREY, LIGHT, ORANGE, WIDTH, Picture, label_text, style, write_svg
from gpt2lab.report.comparison.statistics import Interval, Verdict
from gpt2lab.report.comparison_page.words import CORRECTED, signed, spread

MOST_ROWS = 60
_LABEL_CHARS = 34
COLOURS: dict[Verdict, str] = {"better": BLUE, "worse": ORANGE, "not distinguishable": GREY, "not compared": GREY}
MARKERS: dict[Verdict, str] = {"better": "o", "worse": "s", "not distinguishable": "D", "not compared": "D"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """One arm: its difference to the baseline, the corrected interval (None: one pair) and the verdict."""

    label: str
    difference: float
    interval: Interval | None
    verdict: Verdict
    pairs: int


def draw_forest(
    rows: Sequence[ForestRow], folder: Path, *, metric: str, baseline: str, floor: float | None, higher_is_better: bool
) -> Picture | None:
    """Write differences.svg into `folder`; None without a row. `floor` is the noise floor, in the metric's unit."""
    if not rows:
        return None
    drawn = rows[:MOST_ROWS]
    with style():
        figure = Figure(figsize=(WIDTH, 0.95 + 0.34 * len(drawn)), layout="constrained")
        axes = figure.subplots()
        if floor is not None:
            axes.axvspan(-floor, floor, color=LIGHT, linewidth=0, zorder=0)
        axes.axvline(0, color=GREY, linewidth=1)
        for height, row in enumerate(drawn):
            look: dict[str, Any] = {"color": COLOURS[row.verdict]}
            if row.interval is not None:
                axes.plot(row.interval, (height, height), linewidth=2, **look)
                axes.plot(row.interval, (height, height), linestyle="", marker="|", markersize=7, **look)
            axes.plot([row.difference], [height], linestyle="", marker=MARKERS[row.verdict], markersize=6.5, **look)
            words = f"{signed(row.difference)}  {row.verdict}" + ("" if row.interval else " (one pair)")
            axes.annotate(words, (1.01, height), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9, **look)
        axes.set_yticks(range(len(drawn)), [label_text(row.label, _LABEL_CHARS) for row in drawn])
        axes.set_ylim(len(drawn) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        low, high = _limits(drawn, floor)
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        side = "right" if higher_is_better else "left"
        axes.set_xlabel(f"{metric}: difference to the baseline, better to the {side}")
        write_svg(figure, folder / "differences.svg", "Differences to the baseline")
    return Picture("differences.svg", _alt(drawn, metric, baseline, floor), _caption(rows, baseline, floor))


def _limits(rows: Sequence[ForestRow], floor: float | None) -> Interval:
    ends = [end for row in rows for end in (row.interval or (row.difference, row.difference))]
    ends += [0.0] if floor is None else [-floor, floor]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _alt(rows: Sequence[ForestRow], metric: str, baseline: str, floor: float | None) -> str:
    said = [
        f"{row.label} {signed(row.difference)}"
        + (f" ({signed(row.interval[0])} to {signed(row.interval[1])})" if row.interval else " (one pair)")
        + f", {row.verdict}"
        for row in rows
    ]
    noise = "" if floor is None else f" Noise floor {spread(floor)}."
    return f"Differences in {metric} to the baseline {baseline}: {'; '.join(said)}.{noise}"


def _caption(rows: Sequence[ForestRow], baseline: str, floor: float | None) -> str:
    many = sum(row.interval is not None for row in rows)
    text = f"Differences to the baseline {baseline}, paired by seed"
    text += f"; {CORRECTED if many > 1 else 'the line is the 95 % interval' if many else 'one pair has no interval'}."
    if floor is not None:
        text += f" Shaded: the noise floor, ± {spread(floor)}."
    if len(rows) > MOST_ROWS:
        text += f" The first {MOST_ROWS} of {len(rows)} arms are drawn."
    return text
