"""model.bin and the training state that belongs to it, replaced together.

state.safetensors names the SHA-256 of its model. Both are written beside the old pair as `.new`, then the state is
renamed, then the model. Whatever stops the process, one of the two models on disk matches the state on disk: before
the first rename the old one, between the two renames `model.bin.new`, afterwards the new one.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, file_sha256, fsync_directory

MODEL_FILE = "model.bin"
STATE_FILE = "state.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A consistent pair: the llm.c model file, and what training needs beside it to go on bit-exactly."""

    model_path: Path
    state: dict[str, np.ndarray]
    step: int  # optimizer updates done
    meta: dict[str, str]


def save_checkpoint(
    run_dir: Path,
    *,
    write_model: Callable[[BinaryIO], None],
    state: Mapping[str, np.ndarray],
    step: int,
    meta: Mapping[str, str],
) -> None:
    """Replace the checkpoint of `run_dir`; stopped at any point, the old or the new one can be loaded.

    `write_model` writes model.bin into an open file; `state` holds the other arrays by name, `meta` free text.
    Raises ArchiveError when the disk is full or refuses; the checkpoint before survives and nothing is left over.
    """
    assert not meta.keys() & {"step", "model_sha256"}, "step and model_sha256 are written by save_checkpoint"
    model, new_model = run_dir / MODEL_FILE, run_dir / f"{MODEL_FILE}.new"
    new_state = run_dir / f"{STATE_FILE}.new"
    if new_model.exists() and (run_dir / STATE_FILE).exists():
        # A process killed between the two renames left the only model that matches the state under this name.
        _settle(run_dir, _read_meta(run_dir / STATE_FILE)["model_sha256"])
    try:
        with disk_errors("write checkpoint", new_model):
            with new_model.open("wb") as file:
                write_model(file)
                file.flush()
                os.fsync(file.fileno())
            digest = file_sha256(new_model)
        with disk_errors("write checkpoint", new_state):
            # safetensors writes an array's memory as it lies, so it has to lie in C order.
            arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
            try:
                save_file(arrays, new_state, metadata={**meta, "step": str(step), "model_sha256": digest})
            except SafetensorError as error:
                raise OSError(str(error)) from error
            new_state.chmod(new_model.stat().st_mode)  # safetensors makes files that only their owner reads
            with new_state.open("rb+") as file:
                os.fsync(file.fileno())
    except BaseException:
        new_model.unlink(missing_ok=True)
        new_state.unlink(missing_ok=True)
        raise
    with disk_errors("write checkpoint", run_dir):
        new_state.replace(run_dir / STATE_FILE)
        new_model.replace(model)
        fsync_directory(run_dir)


def load_checkpoint(run_dir: Path) -> Checkpoint:
    """Return the checkpoint of `run_dir`, completing a save that was killed between its two renames.

    Raises ArchiveError when there is none, when a file is damaged, and when model and state do not match.
    """
    path = run_dir / STATE_FILE
    if not path.exists():
        raise ArchiveError(
            f"{run_dir} holds no checkpoint ({STATE_FILE} is missing): the run stopped before it saved one; start it "
            "again, with train.checkpoint_every=N to save on the way"
        )
    meta = _read_meta(path)
    model = _settle(run_dir, meta.pop("model_sha256"))
    try:
        with safe_open(path, framework="np") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ArchiveError(f"{path}: damaged, it cannot be read ({error})") from error
    return Checkpoint(model_path=model, state=state, step=int(meta.pop("step")), meta=meta)


def _read_meta(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="np") as file:
            meta = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ArchiveError(f"{path}: damaged, it cannot be read ({error})") from error
    if not meta.get("step", "").isdigit() or "model_sha256" not in meta:
        raise ArchiveError(f"{path}: not a training state of gpt2lab, its header names no step and no model")
    return meta


def _settle(run_dir: Path, digest: str) -> Path:
    """Return model.bin, which the state on disk names by `digest`, finishing a rename that was cut short."""
    model, new_model = run_dir / MODEL_FILE, run_dir / f"{MODEL_FILE}.new"
    with disk_errors("read checkpoint", model):
        if model.exists() and file_sha256(model) == digest:
            return model
        if new_model.exists() and file_sha256(new_model) == digest:
            new_model.replace(model)
            fsync_directory(run_dir)
            return model
    found = "is missing" if not model.exists() else "is not the model it belongs to (its SHA-256 differs)"
    raise ArchiveError(
        f"{run_dir}: {MODEL_FILE} {found}: {STATE_FILE} was saved with another; put that file back, or start a new run"
    )
