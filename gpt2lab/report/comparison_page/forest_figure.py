"""Differences to the baseline with their intervals, the noise floor behind them, and the verdict in words."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from gpt2lab.record.columns import column
from gpt2lab.report.canvas import BLUE, GREY, LIGHT, ORANGE, Picture, drawing, label_text
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.statistics import Interval, Verdict
from gpt2lab.report.comparison_page.words import CORRECTED, difference_words, signed, spread

MOST_ROWS = 60
_LABEL_CHARS = 34
COLOURS: dict[Verdict, str] = {"better": BLUE, "worse": ORANGE, "not distinguishable": GREY, "not compared": GREY}
MARKERS: dict[Verdict, str] = {"better": "o", "worse": "s", "not distinguishable": "D", "not compared": "D"}


Arms = Sequence[tuple[str, ArmResult]]  # by label


def draw_differences(
    arms: Iterable[tuple[str, ArmResult | None]], comparison: Comparison, folder: Path, *, baseline: str
) -> Picture | None:
    """Write differences.svg of labelled arms that were compared with the baseline; None without any."""
    rows = [(label, row) for label, row in arms if row is not None and row.difference is not None]
    if not rows:
        return None
    drawn, floor = rows[:MOST_ROWS], comparison.floor
    with drawing(folder / "differences.svg", "Differences to the baseline", 0.95 + 0.34 * len(drawn)) as axes:
        if floor is not None:
            axes.axvspan(-floor.std, floor.std, color=LIGHT, linewidth=0, zorder=0)
        axes.axvline(0, color=GREY, linewidth=1)
        for height, (_, row) in enumerate(drawn):
            assert row.difference is not None and row.judgement is not None
            mean, interval, verdict = row.difference.mean, row.corrected_interval, row.judgement.verdict
            look: dict[str, Any] = {"color": COLOURS[verdict]}
            if interval is not None:
                axes.plot(interval, (height, height), linewidth=2, **look)
                axes.plot(interval, (height, height), linestyle="", marker="|", markersize=7, **look)
            axes.plot([mean], [height], linestyle="", marker=MARKERS[verdict], markersize=6.5, **look)
            words = f"{signed(mean)}  {verdict}" + ("" if interval else " (one pair)")
            axes.annotate(words, (1.01, height), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9, **look)
        axes.set_yticks(range(len(drawn)), [label_text(label, _LABEL_CHARS) for label, _ in drawn])
        axes.set_ylim(len(drawn) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(*_limits(drawn, floor.std if floor else 0.0))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        side = "right" if comparison.higher_is_better else "left"
        metric = column(comparison.metric).label
        axes.set_xlabel(f"{metric}: difference to the baseline, better to the {side}")
    told = [f"{label} {difference_words(row)}" for label, row in drawn]
    alt = f"Differences in {metric} to the baseline {baseline}: {'; '.join(told)}."
    many = sum(row.corrected_interval is not None for _, row in rows)
    caption = f"Differences to the baseline {baseline}, paired by seed"
    caption += (
        f"; {CORRECTED if many > 1 else 'the line is the 95 % interval' if many else 'one pair has no interval'}."
    )
    if floor is not None:
        alt += f" Noise floor {spread(floor.std)}."
        caption += f" Shaded: the noise floor, ± {spread(floor.std)}."
    if len(rows) > MOST_ROWS:
        caption += f" The first {MOST_ROWS} of {len(rows)} arms are drawn."
    return Picture("differences.svg", alt, caption)


def _limits(arms: Arms, floor: float) -> Interval:
    ends = [-floor, floor]
    for _, row in arms:
        ends += row.corrected_interval or ([row.difference.mean] if row.difference else [])
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin
