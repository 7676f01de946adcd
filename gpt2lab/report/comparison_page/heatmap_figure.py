"""A grid of two factors: one cell per pair of settings, its value printed in it, missing cells hatched."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gpt2lab.report.canvas import GREY, LIGHT, WIDTH, Picture, drawing, label_text

MOST_SIDE = 12  # settings along a side, beyond which the text in a cell cannot be read
_LABEL_CHARS = 14
_FACTOR_CHARS = 30


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
        axes.set_xticks(range(len(columns)), [label_text(label, _LABEL_CHARS) for label in columns])
        axes.set_yticks(range(len(rows)), [label_text(label, _LABEL_CHARS) for label in rows])
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
