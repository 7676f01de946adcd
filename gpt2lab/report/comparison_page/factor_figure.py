"""What one factor does: the metric and the time per token at each of its settings, every seed a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from gpt2lab.report import numbers
from gpt2lab.report.canvas import BLUE, GREY, WIDTH, Picture, drawing, label_text

FEWEST_SETTINGS = 3  # below which a table says the same
MOST_SETTINGS = 14  # above which their labels run into each other
FILE = "factor.svg"
_LABEL_CHARS = 9


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
    width = WIDTH if timed else 0.62 * WIDTH
    with drawing(folder / FILE, f"{metric} by {factor}", 3.1, width=width, ncols=len(panels), squeeze=False) as [drawn]:
        for axes, (title, values) in zip(drawn, panels, strict=True):
            _draw(axes, values)
            axes.set_title(title, fontsize=10, loc="left")
            labels = [label_text(setting.label, _LABEL_CHARS) for setting in settings]
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
    return Picture(FILE, f"{metric} by {factor}, means over seeds. {'; '.join(said)}.", caption)


def _mean(seeds: Sequence[float]) -> float:
    return sum(seeds) / len(seeds)


def _draw(axes: Axes, values: Sequence[Sequence[float]]) -> None:
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
