"""summary.json: the numbers of one run, as plain values; null = not measured.

It is what an index, a comparison or another program reads; the README is written from the same values.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.model import bands
from gpt2lab.record import columns
from gpt2lab.record.columns import SPLITS, evaluated
from gpt2lab.report import analysis
from gpt2lab.report.comparison.trajectories import split_gap
from gpt2lab.report.inputs import Curve, Inputs, flop_per_token, read_inputs

WARM_UP_SHARE = 0.1  # rows at the start that a median speed leaves out: compilation, caches, allocation


def summarise(directory: Path, title: str | None = None) -> dict[str, Any]:
    """Return the summary of the run recorded in `directory`. Raises ArchiveError naming a missing or damaged file."""
    return summarise_inputs(read_inputs(directory), title or directory.name)


def summarise_inputs(inputs: Inputs, title: str) -> dict[str, Any]:
    """Return the summary of `inputs`: plain JSON values, losses in nats per counted token."""
    fact = inputs.fact
    model = fact("provenance.model") or {}
    val = inputs.curve("val_loss")
    val_loss = _last_measured(inputs, "val_loss")
    training_s = fact("status.training_s")
    train_seen = analysis.reached(inputs.curve("train_accuracy"))
    val_seen = analysis.reached(inputs.curve("val_accuracy"))
    summary: dict[str, Any] = {
        "name": title,
        "status": fact("status.state"),
        "reason": fact("status.reason"),
        "date": fact("status.started") or fact("provenance.created"),
        "hypothesis": fact("config.hypothesis"),
        "tags": fact("config.tags") or [],
        "seed": fact("config.seed"),
        "data": fact("provenance.data.name"),
        "steps": inputs.rows[-1]["step"] if inputs.rows else None,
        "max_steps": fact("config.train.max_steps"),
        "tokens": inputs.rows[-1]["tokens"] if inputs.rows else None,
        "train_loss": _final(inputs.curve("train_loss")),
    }
    for split in SPLITS:
        entries = evaluated(split).values()
        summary |= {entry.name: _last_measured(inputs, entry.name) for entry in entries}
        for entry in entries:
            value, step = _best(inputs.curve(entry.name), largest=bool(entry.higher_is_better))
            summary |= {f"best_{entry.name}": value, f"best_{entry.name}_step": step}
    summary |= {
        "loss_step": val.last[0] if len(val) else None,
        "perplexity": perplexity(val_loss),
        "bits_per_byte": bits_per_byte(inputs, "val", val_loss),
        "gap": _final(split_gap(inputs)),
        "accuracy_threshold": analysis.ACCURACY_REACHED,
        "steps_to_train_accuracy": train_seen,
        "steps_to_val_accuracy": val_seen,
        "delay": val_seen - train_seen if train_seen is not None and val_seen is not None else None,
        "unigram_entropy": fact("provenance.data.unigram_entropy"),
        "reachable_val_loss": model.get("best_val_loss"),
        "random_guess_loss": model.get("random_guess_loss"),
        "n_params": model.get("n_params"),
        "n_params_active": model.get("n_params_active"),
        "flop_per_token_dense": flop_per_token(inputs, "dense"),
        "flop_per_token_computed": flop_per_token(inputs, "computed"),
        **_density(inputs),
        "tokens_per_s": median_speed(inputs.curve("tokens_per_s")),
        "step_ms": median_speed(inputs.curve("step_ms")),
        "peak_mem_mib": _best(inputs.curve("peak_mem_mib"), largest=True)[0],
        "training_s": _final(inputs.curve("elapsed_s")) if training_s is None else training_s,
        "hardware": {
            **{key: fact(f"provenance.engine.{key}") for key in ("device", "device_name", "threads")},
            **{key: fact(f"provenance.platform.{key}") for key in ("cpu", "cores")},
        },
        "engine": fact("provenance.engine.name"),
        "precision": fact("provenance.engine.precision"),
    }
    return summary | {"findings": [asdict(finding) for finding in find(inputs, summary) if finding is not None]}


def counts_every_position(inputs: Inputs) -> bool:
    """Whether the loss is the mean over all positions, as per-byte and per-corpus references are."""
    return inputs.fact("provenance.model.counted_positions") is None


def references(inputs: Inputs, summary: dict[str, Any]) -> dict[str, float | None]:
    """Return the losses of the counted positions (nats) that need no model, None where not known."""
    return {
        "unigram": summary["unigram_entropy"] if counts_every_position(inputs) else None,
        "reachable": summary["reachable_val_loss"],
        "random_guess": summary["random_guess_loss"],
    }


def perplexity(loss: float | None) -> float | None:
    """Return exp(loss) per counted token; None beyond what a float holds."""
    return math.exp(loss) if loss is not None and loss < 700 else None


def bits_per_byte(inputs: Inputs, split: str, loss: float | None) -> float | None:
    """Return loss / ln 2 * tokens / bytes of a split; None unless its bytes are known and all positions counted."""
    tokens = inputs.fact(f"provenance.data.splits.{split}.tokens")
    n_bytes = inputs.fact(f"provenance.data.splits.{split}.bytes")
    if loss is None or not tokens or not n_bytes or not counts_every_position(inputs):
        return None
    return loss / math.log(2) * tokens / n_bytes


def find(inputs: Inputs, summary: dict[str, Any]) -> list[analysis.Finding | None]:
    """Return what the curves say, most telling first; None where a question does not arise."""
    val, train_loss = inputs.curve("val_loss"), inputs.curve("train_loss")
    train_accuracy, val_accuracy = inputs.curve("train_accuracy"), inputs.curve("val_accuracy")
    answers = not counts_every_position(inputs) or analysis.reached(train_accuracy) is not None
    losses = [entry.name for entry in columns.COLUMNS if entry.format == "loss"]
    not_finite = inputs.not_finite(*losses, "grad_norm")
    return [
        analysis.progress(train_loss, not_finite, summary["steps"]),
        analysis.generalisation(train_accuracy, val_accuracy) if answers else None,
        analysis.against_references(val, **references(inputs, summary)),
        analysis.convergence(val, inputs.curve("lr")),
        analysis.gap(inputs.curve("train_eval_loss"), val),
        analysis.best_earlier(val),
        analysis.spikes(train_loss),
        analysis.clipping(inputs.curve("grad_norm"), inputs.fact("config.optim.grad_clip")),
        ineffective_bands(summary),
        analysis.one_seed(summary["seed"]),
    ]


def ineffective_bands(summary: dict[str, Any]) -> analysis.Finding | None:
    """Say which band was asked for and removes nothing."""
    if not summary["ineffective_bands"]:
        return None
    asked = " and ".join(f"{name}={summary[name]}" for name in summary["ineffective_bands"])
    text = f"{asked} keeps every weight of a matrix this size, so it is reported as dense (density 100 %)."
    return analysis.Finding("bands", "A band without effect", text)


def _density(inputs: Inputs) -> dict[str, Any]:
    n_embd = inputs.fact("provenance.model.n_embd")
    result: dict[str, Any] = {"density": {}, "ineffective_bands": []}
    for matrix in ("fc1", "fc2"):
        name = f"{matrix}_band"
        band = inputs.fact(f"provenance.model.{name}")
        result[name] = band
        if n_embd is None or band is None:
            continue
        result["density"][matrix] = bands.density(n_embd, band)
        if band and bands.is_dense(n_embd, band):
            result["ineffective_bands"].append(name)
    return result


def _final(curve: Curve) -> float | None:
    return curve.last[1] if len(curve) else None


def _last_measured(inputs: Inputs, column: str) -> float | None:
    """Return the last value of a column, None when it is not finite: an earlier one is not the end of the run."""
    measured = [row[column] for row in inputs.rows if row.get(column) is not None]
    return float(measured[-1]) if measured and math.isfinite(measured[-1]) else None


def _best(curve: Curve, largest: bool = False) -> tuple[float | None, int | None]:
    if not len(curve):
        return None, None
    step, value = curve.best(largest)
    return value, step


def median_speed(curve: Curve) -> float | None:
    """Return the median of the logged rows, the first tenth of them left out from three rows on; None without any."""
    if not len(curve):
        return None
    warm_up = math.ceil(WARM_UP_SHARE * len(curve)) if len(curve) > 2 else 0
    return float(np.median(curve.values[warm_up:]))
