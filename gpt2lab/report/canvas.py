"""How every figure of a report looks, and how it becomes an SVG file whose bytes depend on the numbers alone.

Colours are Okabe & Ito's (2008), told apart by readers of any colour vision. Text is drawn as outlines of
matplotlib's own font, so a page looks the same everywhere.
"""

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt2lab.report.inputs import Curve

BLUE, ORANGE, GREEN, GREY, LIGHT = "#0072B2", "#D55E00", "#009E73", "#666666", "#E6E6E6"
BLACK, PURPLE, AMBER, SKY = "#000000", "#CC79A7", "#E69F00", "#56B4E9"
# Of many lines in one figure: seven colours (Okabe & Ito's eight without yellow, too faint on white) and four dashes.
# 7 and 4 share no factor, so 28 lines go by before a pair of colour and dash comes back.
_COLOURS = (BLACK, BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
WIDTH = 8.0  # inches; 768 CSS pixels, what GitHub gives a README
LOG_LOSS_RATIO = 50  # between the largest and the smallest loss, from which a linear axis hides the small ones
MAX_POINTS = 600  # of a drawn line: more than there are pixels to see them


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure on disk: its file name, what it shows in words, and the line under it."""

    file: str
    alt: str
    caption: str


@contextmanager
def drawing(path: Path, title: str, height: float, *, width: float = WIDTH, **grid: Any) -> Iterator[Any]:
    """Yield the axes of a figure of these inches, and write it to `path`; `grid` is that of Figure.subplots."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change the bytes
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "gpt2lab",
                "svg.fonttype": "path",
                "font.size": 10,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.edgecolor": GREY,
                "grid.color": LIGHT,
                "legend.frameon": False,
                "lines.linewidth": 1.6,
                "lines.markersize": 3.5,
            }
        )
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(**grid)
        write_svg(figure, path, title)


def line_style(number: int) -> dict[str, Any]:
    """Return colour and dash of the line `number`, from 0: the first is black and solid, the baseline's."""
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _DASHES[number % len(_DASHES)]}


def label_text(text: str, width: int, lines: int = 2) -> str:
    """Return text of any origin as a label of `lines` lines at most: no formula, no glyph that the font lacks."""
    font = get_font(findfont("DejaVu Sans"))
    drawable = (char == " " or (char.isprintable() and font.get_char_index(ord(char))) for char in text)
    shown = "".join(char if good else "?" for char, good in zip(text, drawable, strict=True))
    wrapped = "\n".join(textwrap.wrap(shown, width, max_lines=lines, placeholder=" …"))
    # A leading underscore would keep a line out of the legend.
    return f"{' ' if wrapped.startswith('_') else ''}{wrapped}".replace("$", r"\$")


def write_svg(figure: Figure, path: Path, title: str) -> None:
    FigureCanvasSVG(figure).print_svg(path, metadata={"Title": title, "Date": None, "Creator": None})


def keep(drawn: Iterable[Picture | None], folder: Path, files: Iterable[str]) -> list[Picture]:
    """Return the pictures that were drawn, and remove the others of `files` from `folder`."""
    pictures = [picture for picture in drawn if picture is not None]
    for file in set(files) - {picture.file for picture in pictures}:
        (folder / file).unlink(missing_ok=True)
    return pictures


def thin(curve: Curve, points: int = MAX_POINTS) -> Curve:
    """Return at most `points` rows: the lowest and highest of each stretch, so that no spike is lost."""
    if len(curve) <= points:
        return curve
    kept: set[int] = {0, len(curve) - 1}
    for stretch in np.array_split(np.arange(len(curve)), points // 2 - 1):
        kept |= {int(stretch[curve.values[stretch].argmin()]), int(stretch[curve.values[stretch].argmax()])}
    index = np.array(sorted(kept))
    return Curve(curve.steps[index], curve.values[index])


def step_axis(axes: Axes, log: bool, ticks: int = 6) -> None:
    axes.set_xlabel("Step (optimizer updates)" + (", log scale" if log else ""))
    if log:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))
        axes.margins(x=0.01)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def log_loss_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def reference(axes: Axes, value: float, text: str = "") -> None:
    """Draw a horizontal line at `value`, called `text`."""
    axes.axhline(value, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    if text:
        label_line(axes, text, value)


def label_line(axes: Axes, text: str, value: float) -> None:
    """Write `text` above or below the horizontal line at `value`, where the curves drawn so far keep furthest away."""
    to_axes = axes.transData + axes.transAxes.inverted()
    curves = [np.column_stack([line.get_xdata(), line.get_ydata()]) for line in axes.lines]
    points = np.vstack([to_axes.transform(curve) for curve in curves if len(curve) > 2] or [np.empty((0, 2))])
    height = float(to_axes.transform((axes.get_xlim()[1], value))[1])

    def distance(place: tuple[float, str, int]) -> float:
        x, _, side = place
        near = np.abs(points[:, 0] - min(max(x, 1 / 6), 5 / 6)) <= 1 / 6
        return float(np.abs(points[near, 1] - height - 0.04 * side).min(initial=1.0))

    places = [(x, align, side) for side in (1, -1) for x, align in ((0.995, "right"), (0.5, "center"), (0.005, "left"))]
    x, align, side = max(places, key=distance)
    look: dict[str, Any] = {"ha": align, "va": "bottom" if side > 0 else "top", "fontsize": 8.5, "color": GREY}
    axes.annotate(text, (x, value), (0, 3 * side), axes.get_yaxis_transform(), "offset points", **look)
