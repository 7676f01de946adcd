"""The picture of an evaluation matrix: one cell per model and task, its value written in it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from gpt2lab.record.markdown import one_line
from gpt2lab.report import numbers
from gpt2lab.report.canvas import GREY, ORANGE, Picture, drawing

LONGEST_NAME = 28  # characters beside the cells
_TITLES = {"loss": "Loss, nats per counted token", "accuracy": "Accuracy, share of counted tokens"}


def draw_matrix(
    matrix: np.ndarray, *, models: Sequence[str], tasks: Sequence[str], measure: str, is_chain: bool, folder: Path
) -> Picture:
    """Write MEASURE.svg of a matrix (P, K), float64; darker is better, a frame marks each phase's own task."""
    values, show = np.asarray(matrix, dtype=np.float64), numbers.measure_formatter(measure)
    P, K = values.shape
    with drawing(folder / f"{measure}.svg", _TITLES[measure], 1.5 + 0.5 * P) as axes:
        # viridis orders by lightness alone too; reversed for losses, where less is better.
        image = axes.imshow(values, cmap="viridis" if measure == "loss" else "viridis_r", aspect="auto")
        axes.grid(False)
        axes.set_title(_TITLES[measure], fontsize=10)
        axes.set_xticks(range(K), [_in_lines(name, width=max(8, 56 // K)) for name in tasks])
        axes.set_yticks(range(P), [_in_lines(name, width=LONGEST_NAME, lines=1) for name in models])
        axes.set_xlabel("Evaluated on")
        axes.set_ylabel("After phase" if is_chain else "Model")
        axes.tick_params(length=0)
        size = max(5.0, min(10.0, 90 / K))
        for i, j in np.ndindex(P, K):
            red, green, blue, _ = image.cmap(image.norm(values[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            color = "white" if dark else "black"
            axes.text(j, i, show(float(values[i, j])), ha="center", va="center", fontsize=size, color=color)
        for i in range(P if is_chain else 0):
            axes.add_patch(Rectangle((i - 0.48, i - 0.46), 0.96, 0.92, fill=False, edgecolor=ORANGE, linewidth=2))
        bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
        bar.outline.set_edgecolor(GREY)
    rows = [
        f"{model}: {', '.join(f'{task} {show(float(values[i, j]))}' for j, task in enumerate(tasks))}"
        for i, model in enumerate(models)
    ]
    own = "; the frame marks the task of each phase" if is_chain else ""
    return Picture(
        f"{measure}.svg", f"{_TITLES[measure]}. {'; '.join(rows)}.", f"{_TITLES[measure]}; darker is better{own}."
    )


def _in_lines(name: str, *, width: int, lines: int = 3) -> str:
    text = one_line(name).replace("$", r"\$")  # a bare dollar sign would begin a formula
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="…"))
