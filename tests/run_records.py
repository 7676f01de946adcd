"""Plausible run directories for the tests of the report: curves by formula, everything else as a run writes it."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gpt2lab.record.metrics import MetricsWriter
from gpt2lab.schema import RunConfig, plain

Rows = list[dict[str, float | int | None]]


def text_rows(*, steps: int = 1000, eval_every: int = 100, tokens_per_step: int = 4096, floor: float = 1.6) -> Rows:
    """A loss that falls from ln 256 to `floor`, with noise, as bytes of text give it."""
    noise = np.random.default_rng(0)
    rows: Rows = []
    for step in range(0, steps + 1, 10):
        loss = floor + (math.log(256) - floor) * math.exp(-step / 120) + 0.6 * math.exp(-step / 500)
        row: dict[str, float | int | None] = {"step": step, "tokens": step * tokens_per_step}
        if step:
            ms = 120.0 if step == 10 else 60 + noise.normal()
            row |= {
                "train_loss": loss + 0.03 * noise.normal(),
                "lr": 1e-3 * min(1, step / 100) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))),
                "grad_norm": 0.5 + 2 * math.exp(-step / 100) + 0.05 * abs(noise.normal()),
                "step_ms": ms,
                "tokens_per_s": tokens_per_step / ms * 1e3,
                "elapsed_s": step * 0.06,
                "peak_mem_mib": 512.4,
            }
        if step % eval_every == 0:
            row |= {
                "train_eval_loss": loss + 0.005 * noise.normal(),
                "train_accuracy": 1 / (1 + loss),
                "val_loss": loss + 0.15 * (1 - math.exp(-step / 300)) + 0.005 * noise.normal(),
                "val_accuracy": 0.95 / (1 + loss),
            }
        rows.append(row)
    return rows


def grokking_rows(*, steps: int = 2000, memorised: int = 150, generalised: int = 1300) -> Rows:
    """Training accuracy is there at about `memorised`, validation accuracy long after."""
    rows: Rows = []
    for step in range(0, steps + 1, 50):
        seen = 1 / (1 + math.exp(-(step - memorised) / 20 - 1))
        unseen = 0.02 + 0.98 / (1 + math.exp(-(step - generalised) / 90))
        row: dict[str, float | int | None] = {"step": step, "tokens": step * 8 * 1044}
        row |= {"train_eval_loss": 4.2 * (1 - seen) + 2e-4, "train_accuracy": min(1.0, seen + 1e-3)}
        row |= {"val_loss": 4.2 + 3 * seen * (1 - unseen) - 4.19 * unseen, "val_accuracy": min(1.0, unseen)}
        if step:
            row |= {"train_loss": 4.2 * (1 - seen) + 3e-4, "lr": 1e-3, "grad_norm": 0.02 + (1 - seen)}
            row |= {"step_ms": 150.0, "tokens_per_s": 55_680.0, "elapsed_s": step * 0.15, "peak_mem_mib": 700.0}
        rows.append(row)
    return rows


def diverged_rows() -> Rows:
    """A loss that leaves at step 60 and is not a number at step 80."""
    rows = text_rows(steps=80, eval_every=20)
    for row, loss in zip(rows[6:], (6.2, 9.1, math.nan), strict=True):
        row |= {"train_loss": loss, "grad_norm": math.inf if loss > 9 else 40.0}
    rows[-1] |= {"val_loss": math.nan, "train_eval_loss": math.nan, "val_accuracy": None, "train_accuracy": None}
    return rows


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


CONFIG: dict[str, Any] = plain(RunConfig()) | {"hypothesis": "A byte model of this size ends below 1.9 nats."}

PROVENANCE: dict[str, Any] = {
    "command": ["python", "-m", "gpt2lab.run", "name=first light"],
    "created": "2026-03-01T10:00:00+00:00",
    "run_id": "3f2504e04f8941d39a0c0305e82c3301",
    "git": {"commit": "f2e8012c0ffee0000000000000000000000000aa", "dirty": False, "patch": "", "untracked": []},
    "platform": {"python": "3.11.9", "os": "Linux 6.1 x86_64", "cpu": "AMD EPYC 7763", "cores": 2},
    "versions": {"torch": "2.13.0", "numpy": "2.4.6", "wandb": "0.31.0"},
    "config_hash": "c0" * 32,
    "source_hash": "50" * 32,
    "code_hash": "c0de" * 16,
    "data": {
        "name": "pydocs",
        "vocab_size": 256,
        "tokenizer": "bytes",
        "row_len": None,
        "answer_span": None,
        "best_loss": None,
        "splits": {"train": {"tokens": 418_600, "bytes": 418_600}, "val": {"tokens": 46_511, "bytes": 46_511}},
        "unigram_entropy": 3.2714,
        "files": {"pydoc_data.topics": "da" * 32},
        "detail": {"text": "Python 3.11 documentation topics", "val_share": 0.1},
    },
    "model": {
        "n_layer": 4,
        "n_head": 4,
        "n_embd": 128,
        "max_seq_len": 256,
        "vocab_size": 256,
        "padded_vocab_size": 256,
        "fc1_band": 0,
        "fc2_band": 0,
        "n_params": 859_136,
        "n_params_active": 859_136,
        "counted_positions": None,
        "seq_len": 256,
        "batch_size": 16,
        "tokens_per_step": 4096,
        "best_val_loss": None,
        "random_guess_loss": math.log(256),
    },
    "engine": {
        "name": "torch",
        "device": "cpu",
        "device_name": "AMD EPYC 7763",
        "precision": "fp32",
        "threads": 2,
        "deterministic": True,
    },
}

STATUS: dict[str, Any] = {
    "state": "finished",
    "reason": None,
    "step": 1000,
    "started": "2026-03-01T10:00:00+00:00",
    "ended": "2026-03-01T10:01:20+00:00",
    "training_s": 61.8,
    "tracker": "offline",
}

BANDED = {"model": {"fc1_band": 256, "fc2_band": 256, "n_params_active": 568_320}}

EQUATIONS = {
    "data": {
        "name": "modular",
        "vocab_size": 67,
        "tokenizer": "equations",
        "row_len": 8,
        "answer_span": [4, 4],
        "best_loss": [0, 4.0775, 0, 4.0775, 0, 0, 0, 0],
        "splits": {"train": {"tokens": 8352, "bytes": None}, "val": {"tokens": 19_496, "bytes": None}},
        "unigram_entropy": 2.9,
        "files": {"equations": "e9" * 32},
        "detail": {"operation": "a + b = c (mod 59)", "train_fraction": 0.3},
    },
    "model": {
        "n_layer": 2,
        "vocab_size": 67,
        "padded_vocab_size": 128,
        "max_seq_len": 8,
        "seq_len": 8,
        "batch_size": 1044,
        "tokens_per_step": 8352,
        "counted_positions": [4],
        "best_val_loss": 0.0,
        "random_guess_loss": math.log(67),
        "n_params": 414_208,
        "n_params_active": 406_400,
    },
}


def write_record(
    directory: Path,
    rows: Rows,
    *,
    config: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    overrides: Iterable[str] = ("name='first light'",),
    samples: dict[str, str] | None = None,
    notes: str | None = None,
) -> Path:
    """Write the record of one run into `directory`; the mappings change the default ones key by key."""
    (directory / "samples").mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(_merge(CONFIG, config or {}), sort_keys=False))
    (directory / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    (directory / "provenance.json").write_text(json.dumps(_merge(PROVENANCE, provenance or {})))
    (directory / "status.json").write_text(json.dumps(_merge(STATUS, status or {})))
    with MetricsWriter(directory / "metrics.csv") as writer:
        for row in rows:
            writer.append(row)
    for name, text in (samples or {}).items():
        (directory / "samples" / name).write_text(text, encoding="utf-8")
    if notes is not None:
        (directory / "notes.md").write_text(notes, encoding="utf-8")
    return directory


def write_text_run(directory: Path) -> Path:
    """The default run, finished."""
    sample = "\nThe statement is evaluated when the object is called.\n\n   >>> x = [1, 2]\n"
    notes = "## Question\n\nDoes the *smallest* model learn?\n\n## What I saw\n\n<!-- write here -->\n\nIt **does**.\n"
    return write_record(directory, text_rows(), samples={"0.txt": sample}, notes=notes)


def write_banded_run(directory: Path) -> Path:
    """The default run with both bands at 256, exactly 44.0 % of FC1 and FC2."""
    overrides = ["sparsity=banded", "fc1_band=256", "fc2_band=256"]
    return write_record(directory, text_rows(floor=1.7), provenance=BANDED, overrides=overrides)


def write_grokking_run(directory: Path) -> Path:
    """Equations, only the answer counted, generalised long after it was memorised."""
    config = {
        "hypothesis": "With weight decay 1 generalisation comes at least five times later than memorisation.",
        "task_position": "auto",
        "train": {"max_steps": 2000, "batch_size": "full", "eval_every": 50, "eval_batches": None},
        "optim": {"weight_decay": 1.0, "beta2": 0.98},
    }
    overrides = ["experiment=grokking"]
    status = {"step": 2000, "training_s": 300.2}
    samples = {"0.txt": "BOS 3 + 5 = 8 EOS"}
    return write_record(
        directory,
        grokking_rows(),
        config=config,
        provenance=EQUATIONS,
        status=status,
        overrides=overrides,
        samples=samples,
    )


def write_interrupted_run(directory: Path) -> Path:
    """Ctrl-C before the first update: one row, nothing trained."""
    status = {"state": "interrupted", "reason": "Ctrl-C at step 0", "step": 0, "ended": None, "training_s": 0.0}
    return write_record(directory, text_rows(steps=0), status=status, config={"hypothesis": None})


def write_diverged_run(directory: Path) -> Path:
    """A run whose loss was not a number at step 80."""
    reason = "loss nan at step 80, learning rate 0.0008, gradient norm inf"
    return write_record(directory, diverged_rows(), status={"state": "failed", "reason": reason, "step": 80})
