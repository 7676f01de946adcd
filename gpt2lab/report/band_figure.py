"""The picture of a band: which weights of FC1 and FC2 it keeps, with the exact count."""

from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.model import bands
from gpt2lab.report import numbers
from gpt2lab.report.canvas import BLUE, LIGHT, Picture, drawing
from gpt2lab.report.inputs import Inputs


def draw_bands(inputs: Inputs, summary: dict[str, Any], folder: Path) -> Picture | None:
    """Write bands.svg, which weights of FC1 and FC2 are kept; None when every weight is."""
    if all(share == 1 for share in summary["density"].values()):
        return None
    n_embd = inputs.fact("provenance.model.n_embd")
    n_hidden = 4 * n_embd
    channels = np.arange(n_embd)
    described = []
    with drawing(folder / "bands.svg", "Kept weights of FC1 and FC2", 3.9, ncols=2) as panels:
        for axes, matrix in zip(panels, ("fc1", "fc2"), strict=True):
            half_band = (summary[f"{matrix}_band"] or 8 * n_embd) // 2
            first = np.maximum(4 * channels - half_band, 0)
            last = np.minimum(4 * channels + half_band, n_hidden - 1)
            # Cells, not points: channel c covers [c, c+1) and hidden unit h covers [h, h+1).
            edges = np.repeat(np.arange(n_embd + 1), 2)[1:-1]
            lower, upper = np.repeat(first, 2), np.repeat(last + 1, 2)
            wide = matrix == "fc2"
            (axes.fill_betweenx if wide else axes.fill_between)(edges, lower, upper, color=BLUE, linewidth=0)
            limits = (0, n_embd), (0, n_hidden)
            axes.set_xlim(*limits[1 if wide else 0])
            axes.set_ylim(*reversed(limits[0 if wide else 1]))
            axes.set_xlabel(f"Column: {'hidden unit' if wide else 'channel'}")
            axes.set_ylabel(f"Row: {'channel' if wide else 'hidden unit'}")
            for axis, size in ((axes.xaxis, n_hidden if wide else n_embd), (axes.yaxis, n_embd if wide else n_hidden)):
                axis.set_ticks([0, size // 4, size // 2, 3 * size // 4, size])
            axes.grid(False)
            axes.set_facecolor(LIGHT)
            kept = f"{bands.kept_weights(n_embd, summary[f'{matrix}_band']):,}"
            share = numbers.percent(summary["density"][matrix])
            axes.set_title(f"{matrix.upper()}: {kept} of {n_hidden * n_embd:,} weights, {share}", fontsize=10)
            shape = f"{n_embd} × {n_hidden}" if wide else f"{n_hidden} × {n_embd}"
            described.append(f"{matrix.upper()} ({shape}) keeps {kept} weights, {share}")
    alt = f"Kept weights of the MLP matrices around the diagonal h = 4c: {'; '.join(described)}."
    return Picture("bands.svg", alt, "Weights kept by the bands (blue) in every layer; the rest are zero.")
