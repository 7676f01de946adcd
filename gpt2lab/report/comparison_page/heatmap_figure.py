"""A grid of two factors: one cell per pair of settings, its value printed in it, missing cells hatched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gpt2lab.report.canvas import GREY, LIGHT, WIDTH, Picture, label_text, style, write_svg

MOST_SIDE = 12  # settings along a side, beyond which the text in a cell cannot be read
_LABEL_CHARS = 14
_FACTOR_CHARS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapCell:
    """One cell: `value` chooses its colour (None: grey), `text` is printed; without text `absent` says why."""

    value: float | None
    text: str | None
    note: str = ""  # a second, smaller line
    absent: str = "not in the plan"

    @property
    def words(self) -> str:
        """What the cell says, on one line."""
        return self.absent if self.text is None else f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapGrid:
    """Cells by the settings of two factors, rows first."""

    row_factor: str
    column_factor: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[HeatmapCell, ...], ...]


def draw_heatmap(grid: HeatmapGrid, folder: Path, *, file: str, what: str, darker: str) -> Picture | None:
    """Write `file` into `folder`; `darker` says in words what a dark cell means. None for a grid too large to read."""
    n_rows, n_columns = len(grid.rows), len(grid.columns)
    if not n_rows or not n_columns or max(n_rows, n_columns) > MOST_SIDE:
        return None
    values = [cell.value for row in grid.cells for cell in row if cell.value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    colours = colormaps["Blues"]  # one hue, light to dark: told apart without seeing colours
    with style():
        width = min(WIDTH, 1.9 + 1.25 * n_columns)
        figure = Figure(figsize=(width, 0.9 + 0.62 * n_rows), layout="constrained")
        axes = figure.subplots()
        for r, row in enumerate(grid.cells):
            for c, cell in enumerate(row):
                face: Any = LIGHT
                ink, hatch = "black", None
                if cell.value is not None:
                    share = 0.5 if high == low else (cell.value - low) / (high - low)
                    red, green, blue, _ = colours(0.12 + 0.78 * share)
                    face = (red, green, blue)
                    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
                elif cell.text is None:
                    face, hatch = "white", "///"
                axes.add_patch(
                    Rectangle(
                        (c - 0.5, r - 0.5), 1, 1, facecolor=face, edgecolor=GREY if hatch else "white", hatch=hatch
                    )
                )
                _print(axes, c, r, cell, ink)
        axes.set_xlim(-0.5, n_columns - 0.5)
        axes.set_ylim(n_rows - 0.5, -0.5)
        axes.set_xticks(range(n_columns), [label_text(label, _LABEL_CHARS) for label in grid.columns])
        axes.set_yticks(range(n_rows), [label_text(label, _LABEL_CHARS) for label in grid.rows])
        axes.set_xlabel(label_text(grid.column_factor, _FACTOR_CHARS))
        axes.set_ylabel(label_text(grid.row_factor, _FACTOR_CHARS))
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        write_svg(figure, folder / file, what)
    hatched = any(cell.text is None for row in grid.cells for cell in row)
    return Picture(file, _alt(grid, what), f"{what}. Darker is {darker}{'; hatched: no value' if hatched else ''}.")


def _print(axes: Axes, column: int, row: int, cell: HeatmapCell, ink: str) -> None:
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    if cell.text is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(column, row, cell.absent, fontsize=8.5, bbox=box, **look)
        return
    axes.text(column, row - (0.13 if cell.note else 0), cell.text, fontsize=11, **look)
    if cell.note:
        axes.text(column, row + 0.24, cell.note, fontsize=8, **look)


def _alt(grid: HeatmapGrid, what: str) -> str:
    said = []
    for row_label, row in zip(grid.rows, grid.cells, strict=True):
        cells = [f"{label}: {cell.words}" for label, cell in zip(grid.columns, row, strict=True)]
        said.append(f"{grid.row_factor} {row_label}: {grid.column_factor} {', '.join(cells)}")
    return f"{what}. {'; '.join(said)}."
