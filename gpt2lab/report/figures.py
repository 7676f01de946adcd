"""The curves of a run report. A split keeps its colour in every figure."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gpt2lab.model import bands
from gpt2lab.record.columns import SPLITS, evaluated
from gpt2lab.report import canvas, numbers
from gpt2lab.report.analysis import DELAY_FACTOR
from gpt2lab.report.canvas import Picture
from gpt2lab.report.inputs import Curve, Inputs
from gpt2lab.report.summary import counts_every_position, references

FILES = ("loss.svg", "accuracy.svg", "learning_rate.svg", "bands.svg")
NAMES = {"train": "training", "val": "validation", "test": "test"}
COLOURS = {"train": canvas.ORANGE, "val": canvas.BLUE, "test": canvas.GREEN}
REFERENCES = {"reachable": "best reachable", "random_guess": "uniform guess", "unigram": "unigram entropy"}


def _is_delayed(summary: dict[str, Any]) -> bool:
    train, val = summary["steps_to_train_accuracy"], summary["steps_to_val_accuracy"]
    # What has memorised and not generalised may still be waiting for it: the same axis shows both.
    return bool(train) and (val is None or val >= DELAY_FACTOR * train)


def _splits(inputs: Inputs, measure: str, log: bool) -> list[tuple[str, Curve, str]]:
    """Return (label, curve, colour) of each split that was evaluated where an axis shows it."""
    found = [(split, inputs.curve(evaluated(split)[measure].name)) for split in SPLITS]
    return [(f"{NAMES[split]} split", curve, COLOURS[split]) for split, curve in found if len(curve.since(int(log)))]


def _draw_splits(axes: Axes, curves: list[tuple[str, Curve, str]], log: bool) -> None:
    for label, curve, colour in curves:
        shown = canvas.thin(curve.since(1) if log else curve)
        marker = "o" if len(shown) <= 40 else None
        axes.plot(shown.steps, shown.values, color=colour, marker=marker, label=label)


def draw_loss(inputs: Inputs, summary: dict[str, Any], folder: Path) -> Picture | None:
    """Write loss.svg: running training loss, and each split's evaluated loss, over steps."""
    log = _is_delayed(summary)
    running = inputs.curve("train_loss")
    splits = _splits(inputs, "loss", log)
    curves = [running, *(curve for _, curve, _ in splits)]
    values = np.concatenate([curve.since(int(log)).values for curve in curves])
    if len(np.unique(np.concatenate([curve.steps for curve in curves]))) < 2:
        return None
    low, high = float(values.min()), float(values.max())
    log_loss = low > 0 and high / low > canvas.LOG_LOSS_RATIO
    with canvas.drawing(folder / "loss.svg", "Loss over steps", 3.8) as axes:
        shown = canvas.thin(running.since(1) if log else running)
        if len(shown):
            axes.plot(shown.steps, shown.values, color=canvas.ORANGE, alpha=0.35, linewidth=1, label="training batches")
        _draw_splits(axes, splits, log)
        if log_loss:
            canvas.log_loss_axis(axes)
        canvas.step_axis(axes, log)
        axes.set_ylabel("Loss (nats per counted token)" + (", log scale" if log_loss else ""))
        margin = 0.08 * (high - low)
        known = references(inputs, summary)
        for key, name in REFERENCES.items():
            value = known[key]
            if value is not None and (value > 0 or not log_loss) and low - margin <= value <= high + margin:
                canvas.reference(axes, value, f"{name} {numbers.loss(value)}")
        axes.legend(loc="lower left" if log_loss else "best")
    described = [
        f"{label} from {numbers.loss(float(curve.values[0]))} at step {int(curve.steps[0]):,} to "
        f"{numbers.loss(curve.last[1])} at step {curve.last[0]:,}"
        for label, curve, _ in splits or [("training batches", running, canvas.ORANGE)]
    ]
    without = " Step 0 is left out by the log axis." if log else ""
    return Picture("loss.svg", f"Loss over steps: {'; '.join(described)}.", f"Loss over steps.{without}")


def draw_accuracy(inputs: Inputs, summary: dict[str, Any], folder: Path) -> Picture | None:
    """Write accuracy.svg, for rows or answers: an accuracy over running text is no curve to look at."""
    if counts_every_position(inputs) and not inputs.fact("provenance.data.row_len"):
        return None
    log = _is_delayed(summary)
    splits = _splits(inputs, "accuracy", log)
    if not splits:
        return None
    threshold = summary["accuracy_threshold"]
    reached = {split: summary[f"steps_to_{split}_accuracy"] for split in ("train", "val")}
    with canvas.drawing(folder / "accuracy.svg", "Accuracy over steps", 3.2) as axes:
        _draw_splits(axes, splits, log)
        canvas.step_axis(axes, log)
        axes.set_ylabel("Accuracy at counted positions")
        axes.set_ylim(-0.03, 1.05)
        canvas.reference(axes, threshold)
        for split, step in reached.items():
            if step:
                axes.axvline(step, color=COLOURS[split], linestyle=":", linewidth=1.2)
        axes.legend(loc="best")
    firsts = [
        f"{NAMES[split]} " + (f"did not reach {threshold}" if step is None else f"reached {threshold} at step {step:,}")
        for split, step in reached.items()
        if len(inputs.curve(f"{split}_accuracy"))
    ]
    text = f": {'; '.join(firsts)}" if firsts else ""
    caption = f"Accuracy at counted positions. The dashed line is {threshold}, a dotted line its first step."
    return Picture("accuracy.svg", f"Accuracy over steps{text}.", caption)


def draw_learning_rate(inputs: Inputs, folder: Path) -> Picture | None:
    """Write learning_rate.svg: the schedule as it was applied, and the gradient norm beside it."""
    lr, norm = inputs.curve("lr").since(1), inputs.curve("grad_norm").since(1)
    if len(lr) < 2:
        return None
    clip = inputs.fact("config.optim.grad_clip")
    columns = 2 if len(norm) > 1 else 1
    title = "Learning rate and gradient norm over steps"
    with canvas.drawing(folder / "learning_rate.svg", title, 2.7, ncols=columns, squeeze=False) as [panels]:
        panels[0].plot(lr.steps, lr.values, color=canvas.GREEN)
        panels[0].set_ylabel("Learning rate")
        panels[0].set_ylim(0, 1.08 * float(lr.values.max()) or 1)
        if columns == 2:
            shown = canvas.thin(norm)
            panels[1].plot(shown.steps, shown.values, color=canvas.GREEN, linewidth=1)
            panels[1].set_ylabel("Gradient norm (L2)")
            if norm.values.min() > 0 and norm.values.max() / norm.values.min() > canvas.LOG_LOSS_RATIO:
                canvas.log_loss_axis(panels[1])
            else:
                panels[1].set_ylim(bottom=0)
            if clip and norm.values.min() <= clip <= norm.values.max():
                canvas.reference(panels[1], clip)
        for axes in panels:
            canvas.step_axis(axes, log=False, ticks=4)
    peak_step, peak = lr.best(largest=True)
    alt = f"Learning rate over steps: peak {numbers.rounded(peak)} at step {peak_step:,}, "
    alt += f"{numbers.rounded(lr.last[1])} at step {lr.last[0]:,}."
    if columns == 1:
        return Picture("learning_rate.svg", alt, "Learning rate as applied.")
    step, largest = norm.best(largest=True)
    alt += f" Gradient norm: largest {numbers.rounded(largest)} at step {step:,}, last {numbers.rounded(norm.last[1])}."
    dashed = f" The dashed line is the clipping threshold {numbers.setting(clip)}." if clip else ""
    return Picture("learning_rate.svg", alt, f"Learning rate as applied, and gradient norm before clipping.{dashed}")


def draw_bands(inputs: Inputs, summary: dict[str, Any], folder: Path) -> Picture | None:
    """Write bands.svg, which weights of FC1 and FC2 are kept; None when every weight is."""
    if all(share == 1 for share in summary["density"].values()):
        return None
    n_embd = inputs.fact("provenance.model.n_embd")
    n_hidden = 4 * n_embd
    channels = np.arange(n_embd)
    described = []
    with canvas.drawing(folder / "bands.svg", "Kept weights of FC1 and FC2", 3.9, ncols=2) as panels:
        for axes, matrix in zip(panels, ("fc1", "fc2"), strict=True):
            half_band = (summary[f"{matrix}_band"] or 8 * n_embd) // 2
            first = np.maximum(4 * channels - half_band, 0)
            last = np.minimum(4 * channels + half_band, n_hidden - 1)
            # Cells, not points: channel c covers [c, c+1) and hidden unit h covers [h, h+1).
            edges = np.repeat(np.arange(n_embd + 1), 2)[1:-1]
            lower, upper = np.repeat(first, 2), np.repeat(last + 1, 2)
            wide = matrix == "fc2"
            (axes.fill_betweenx if wide else axes.fill_between)(edges, lower, upper, color=canvas.BLUE, linewidth=0)
            limits = (0, n_embd), (0, n_hidden)
            axes.set_xlim(*limits[1 if wide else 0])
            axes.set_ylim(*reversed(limits[0 if wide else 1]))
            axes.set_xlabel(f"Column: {'hidden unit' if wide else 'channel'}")
            axes.set_ylabel(f"Row: {'channel' if wide else 'hidden unit'}")
            for axis, size in ((axes.xaxis, n_hidden if wide else n_embd), (axes.yaxis, n_embd if wide else n_hidden)):
                axis.set_ticks([0, size // 4, size // 2, 3 * size // 4, size])
            axes.grid(False)
            axes.set_facecolor(canvas.LIGHT)
            kept = f"{bands.kept_weights(n_embd, summary[f'{matrix}_band']):,}"
            share = numbers.percent(summary["density"][matrix])
            axes.set_title(f"{matrix.upper()}: {kept} of {n_hidden * n_embd:,} weights, {share}", fontsize=10)
            shape = f"{n_embd} × {n_hidden}" if wide else f"{n_hidden} × {n_embd}"
            described.append(f"{matrix.upper()} ({shape}) keeps {kept} weights, {share}")
    alt = f"Kept weights of the MLP matrices around the diagonal h = 4c: {'; '.join(described)}."
    return Picture("bands.svg", alt, "Weights kept by the bands (blue) in every layer; the rest are zero.")


def draw_figures(inputs: Inputs, summary: dict[str, Any], folder: Path) -> list[Picture]:
    """Write every figure that these inputs can fill into `folder`, and remove those they cannot."""
    drawn = [
        draw_loss(inputs, summary, folder),
        draw_accuracy(inputs, summary, folder),
        draw_learning_rate(inputs, folder),
        draw_bands(inputs, summary, folder),
    ]
    return canvas.keep(drawn, folder, FILES)
