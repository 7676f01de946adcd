import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpt2lab.errors import ArchiveError
from gpt2lab.record.checkpoint import load_checkpoint, save_checkpoint


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the process may clean up after it."""


def contents(step: int) -> tuple[bytes, dict[str, np.ndarray]]:
    rng = np.random.default_rng(step)
    moments = {"m.wte": rng.standard_normal((5, 3), dtype=np.float32), "v.wte": rng.random((5, 3), dtype=np.float32)}
    return bytes([step]) * 1000, moments


def save(run_dir, step: int) -> None:
    model, state = contents(step)
    save_checkpoint(
        run_dir, write_model=lambda file: file.write(model), state=state, step=step, meta={"config_hash": "ab"}
    )


def assert_is_checkpoint(run_dir, step: int) -> None:
    checkpoint = load_checkpoint(run_dir)
    model, state = contents(step)
    assert checkpoint.step == step
    assert checkpoint.meta == {"config_hash": "ab"}
    assert checkpoint.model_path == run_dir / "model.bin"
    assert checkpoint.model_path.read_bytes() == model
    assert checkpoint.state.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(checkpoint.state[name], array, strict=True)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
        assert_is_checkpoint(tmp_path, step)
        assert {path.name for path in tmp_path.iterdir()} == {"model.bin", "state.safetensors"}


def test_arrays_that_are_views_are_saved_by_value(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    state = {"transposed": array.T, "strided": array[:, ::2], "scalar": np.asarray(7, dtype=np.int64)}
    save_checkpoint(tmp_path, write_model=lambda file: None, state=state, step=0, meta={})
    loaded = load_checkpoint(tmp_path).state
    for name, expected in state.items():
        np.testing.assert_array_equal(loaded[name], expected, strict=True)


def stop_at(monkeypatch, call: int) -> list[str]:
    """Raise KilledError instead of the `call`-th fsync or rename; return the list that names those made."""
    made: list[str] = []

    def wrap(name):
        original = getattr(os, name)

        def wrapped(*arguments, **keywords):
            if len(made) == call:
                raise KilledError
            made.append(name)
            return original(*arguments, **keywords)

        monkeypatch.setattr(os, name, wrapped)

    for name in ("fsync", "replace"):
        wrap(name)
    # A killed process removes nothing.
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    return made


def test_a_save_killed_at_any_point_leaves_a_pair_that_loads(tmp_path, monkeypatch):
    seen = []
    for call in range(10):
        run_dir = tmp_path / str(call)
        run_dir.mkdir()
        save(run_dir, 1)
        with monkeypatch.context() as patch:
            made = stop_at(patch, call)
            try:
                save(run_dir, 2)
                break
            except KilledError:
                pass
        renamed = made.count("replace")
        seen.append(renamed)
        copy = tmp_path / f"{call}-then-saved"
        shutil.copytree(run_dir, copy)
        assert_is_checkpoint(run_dir, 1 if renamed == 0 else 2)
        save(copy, 3)
        assert_is_checkpoint(copy, 3)
    assert set(seen) == {0, 1, 2} and made == ["fsync", "fsync", "replace", "replace", "fsync"]


def test_a_second_save_does_not_destroy_what_a_killed_one_left(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)  # between the two renames: model.bin.new is the only match of the state
        with pytest.raises(KilledError):
            save(tmp_path, 2)
    with pytest.raises(ArchiveError):
        save_checkpoint(tmp_path, write_model=fail_in_the_middle, state={}, step=3, meta={})
    assert_is_checkpoint(tmp_path, 2)


def fail_in_the_middle(file) -> None:
    file.write(b"half a model")
    raise OSError(28, "No space left on device")


def test_the_first_save_killed_between_its_renames_loads(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KilledError):
            save(tmp_path, 1)
    assert not (tmp_path / "model.bin").exists()
    assert_is_checkpoint(tmp_path, 1)


def test_a_disk_that_fills_up_in_the_model_keeps_the_old_checkpoint(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ArchiveError, match=r"model\.bin\.new: cannot write checkpoint: no space left on device"):
        save_checkpoint(tmp_path, write_model=fail_in_the_middle, state={}, step=2, meta={})
    assert_is_checkpoint(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"model.bin", "state.safetensors"}


@pytest.mark.parametrize("where", ["model", "state"])
def test_a_file_that_the_system_refuses_to_grow_keeps_the_old_checkpoint(tmp_path, where):
    """A file-size limit is a full disk that anyone can have."""
    save(tmp_path, 1)
    big = np.zeros(500_000, dtype=np.float32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ArchiveError, match="cannot write checkpoint") as caught:
            save_checkpoint(
                tmp_path,
                write_model=lambda file: file.write(big.tobytes() if where == "model" else b"small"),
                state={"m": big},
                step=2,
                meta={},
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert where in str(caught.value) and "\n" not in str(caught.value)
    assert_is_checkpoint(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"model.bin", "state.safetensors"}


def test_any_other_error_while_writing_leaves_nothing_behind(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    save(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, write_model=interrupted, state={}, step=2, meta={})
    assert_is_checkpoint(tmp_path, 1)
    assert not list(tmp_path.glob("*.new"))


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(ArchiveError, match=r"holds no checkpoint .*train\.checkpoint_every"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"weights alone")
    with pytest.raises(ArchiveError, match=r"state\.safetensors is missing"):
        load_checkpoint(tmp_path)


def test_a_model_of_another_save_is_refused(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "model.bin").write_bytes(b"other")
    with pytest.raises(ArchiveError, match="not the model it belongs to"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(ArchiveError, match=r"model\.bin is missing"):
        load_checkpoint(tmp_path)


def test_a_half_written_state_is_refused_at_every_length(tmp_path):
    save(tmp_path, 1)
    state = tmp_path / "state.safetensors"
    whole = state.read_bytes()
    for length in (0, 7, 8, 50, len(whole) // 2, len(whole) - 1):
        state.write_bytes(whole[:length])
        with pytest.raises(ArchiveError, match=r"state\.safetensors: damaged"):
            load_checkpoint(tmp_path)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "state.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArchiveError, match="not a training state"):
        load_checkpoint(tmp_path)
