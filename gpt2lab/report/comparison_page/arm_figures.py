"""What every arm gave as a mark of its own: differences to the baseline, settings of one factor, a grid of two."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from gpt2lab.record.columns import column
from gpt2lab.report import numbers
from gpt2lab.report.canvas import BLUE, GREY, LIGHT, ORANGE, WIDTH, Picture, drawing, label_text
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.statistics import Verdict
from gpt2lab.report.comparison_page.words import CORRECTED, difference_words, signed, spread

MOST_ROWS = 60
_FOREST_CHARS = 34
COLOURS: dict[Verdict, str] = {"better": BLUE, "worse": ORANGE, "not distinguishable": GREY, "not compared": GREY}
MARKERS: dict[Verdict, str] = {"better": "o", "worse": "s", "not distinguishable": "D", "not compared": "D"}
FEWEST_SETTINGS = 3  # below which a table says the same
MOST_SETTINGS = 14  # above which their labels run into each other
FACTOR = "factor.svg"
_FACTOR_LABEL_CHARS = 9
MOST_SIDE = 12  # settings along a side, beyond which the text in a cell cannot be read
_GRID_CHARS = 14
_FACTOR_CHARS = 30


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
        ends = [-floor.std, floor.std] if floor is not None else [0.0]
        for height, (_, row) in enumerate(drawn):
            assert row.difference is not None and row.judgement is not None
            mean, interval, verdict = row.difference.mean, row.corrected_interval, row.judgement.verdict
            ends += interval or (mean,)
            look: dict[str, Any] = {"color": COLOURS[verdict]}
            if interval is not None:
                axes.plot(interval, (height, height), linewidth=2, **look)
                axes.plot(interval, (height, height), linestyle="", marker="|", markersize=7, **look)
            axes.plot([mean], [height], linestyle="", marker=MARKERS[verdict], markersize=6.5, **look)
            words = f"{signed(mean)}  {verdict}" + ("" if interval else " (one pair)")
            axes.annotate(words, (1.01, height), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9, **look)
        axes.set_yticks(range(len(drawn)), [label_text(label, _FOREST_CHARS) for label, _ in drawn])
        axes.set_ylim(len(drawn) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        margin = 0.05 * (max(ends) - min(ends)) or 1.0
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of the factor: its seeds' values of the metric, and their times per token in µs, empty: untimed."""

    label: str
    metric: tuple[float, ...]
    token_us: tuple[float, ...]


def draw_factor(
    settings: Sequence[Setting], folder: Path, *, factor: str, metric: str, unit: str, untimed: str | None
) -> Picture | None:
    """Write factor.svg into `folder`; None for too few or too many settings. `untimed` says why there are no times."""
    if not FEWEST_SETTINGS <= len(settings) <= MOST_SETTINGS:
        return None
    timed = untimed is None and all(setting.token_us for setting in settings)
    panels = [(f"{metric} ({unit})" if unit else metric, [setting.metric for setting in settings])]
    if timed:
        panels.append(("Time per token (µs)", [setting.token_us for setting in settings]))
    width, what = WIDTH if timed else 0.62 * WIDTH, f"{metric} by {factor}"
    with drawing(folder / FACTOR, what, 3.1, width=width, ncols=len(panels), squeeze=False) as [drawn]:
        for axes, (title, values) in zip(drawn, panels, strict=True):
            _draw_seeds(axes, values)
            axes.set_title(title, fontsize=10, loc="left")
            labels = [label_text(setting.label, _FACTOR_LABEL_CHARS) for setting in settings]
            axes.set_xticks(range(len(settings)), labels)
            axes.set_xlabel(label_text(factor, 40))
            axes.grid(visible=False, axis="x")
        axes.set_ylim(bottom=0 if timed else None)  # of times, so that a saving looks as large as it is
    caption = f"Settings of {factor} side by side, not to scale: a point for each seed, the line through the means. "
    times = f"No times: {untimed or 'not every run recorded its speed'}."
    caption += "Times are medians of the logged rows, the first tenth left out." if timed else times
    said = []
    for setting in settings:
        words = f"{setting.label}: {_mean(setting.metric):.4f}"
        said.append(words + (f", {numbers.significant(_mean(setting.token_us))} µs per token" if timed else ""))
    return Picture(FACTOR, f"{what}, means over seeds. {'; '.join(said)}.", caption)


def _mean(seeds: Sequence[float]) -> float:
    return sum(seeds) / len(seeds)


def _draw_seeds(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    for place, seeds in enumerate(values):
        axes.plot([place] * len(seeds), seeds, linestyle="", marker="o", markersize=4, color=GREY, alpha=0.6)
    axes.plot(
        range(len(values)),
        list(map(_mean, values)),
        marker="_",
        markersize=14,
        markeredgewidth=2,
        linewidth=1,
        color=BLUE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapCell:
    """One cell: `value` chooses its colour (None: grey), `text` is printed; without text `absent` says why."""

    value: float | None = None
    text: str | None = None
    note: str = ""  # a second, smaller line
    absent: str = "not in the plan"

    @property
    def words(self) -> str:
        """What the cell says, on one line."""
        return self.absent if self.text is None else f"{self.text} ({self.note})" if self.note else self.text


NOT_PLANNED = HeatmapCell()
Cells = Mapping[tuple[str, str], HeatmapCell]  # by the settings of two factors, row and column


def draw_heatmap(
    cells: Cells, folder: Path, *, factors: tuple[str, str], file: str, what: str, darker: str
) -> Picture | None:
    """Write `file` into `folder`; `darker` says in words what a dark cell means. None for a grid too large to read."""
    rows, columns = (list(dict.fromkeys(settings)) for settings in zip(*cells, strict=True))
    if max(len(rows), len(columns)) > MOST_SIDE:
        return None
    grid = [[cells.get((row, column), NOT_PLANNED) for column in columns] for row in rows]
    values = [cell.value for cell in cells.values() if cell.value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    colours = colormaps["Blues"]  # one hue, light to dark: told apart without seeing colours
    width = min(WIDTH, 1.9 + 1.25 * len(columns))
    with drawing(folder / file, what, 0.9 + 0.62 * len(rows), width=width) as axes:
        for (r, row), (c, _) in product(enumerate(grid), enumerate(columns)):
            cell = row[c]
            look: dict[str, Any] = {"facecolor": LIGHT, "edgecolor": "white"}
            ink = "black"
            if cell.value is not None:
                share = 0.5 if high == low else (cell.value - low) / (high - low)
                red, green, blue, _ = colours(0.12 + 0.78 * share)
                look["facecolor"] = (red, green, blue)
                ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            elif cell.text is None:
                look = {"facecolor": "white", "edgecolor": GREY, "hatch": "///"}
            axes.add_patch(Rectangle((c - 0.5, r - 0.5), 1, 1, **look))
            _print(axes, c, r, cell, ink)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), [label_text(label, _GRID_CHARS) for label in columns])
        axes.set_yticks(range(len(rows)), [label_text(label, _GRID_CHARS) for label in rows])
        axes.set_xlabel(label_text(factors[1], _FACTOR_CHARS))
        axes.set_ylabel(label_text(factors[0], _FACTOR_CHARS))
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    told = [", ".join(f"{label}: {cell.words}" for label, cell in zip(columns, row, strict=True)) for row in grid]
    lines = [f"{factors[0]} {label}: {factors[1]} {words}" for label, words in zip(rows, told, strict=True)]
    hatched = "; hatched: no value" if any(cell.text is None for row in grid for cell in row) else ""
    return Picture(file, f"{what}. {'; '.join(lines)}.", f"{what}. Darker is {darker}{hatched}.")


def _print(axes: Axes, column: int, row: int, cell: HeatmapCell, ink: str) -> None:
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    if cell.text is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(column, row, cell.absent, fontsize=8.5, bbox=box, **look)
        return
    axes.text(column, row - (0.13 if cell.note else 0), cell.text, fontsize=11, **look)
    if cell.note:
        axes.text(column, row + 0.24, cell.note, fontsize=8, **look)
