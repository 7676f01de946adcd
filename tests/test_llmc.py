import io
from pathlib import Path

import numpy as np
import pytest

from gpt2lab.errors import DataError
from gpt2lab.model.init import init_params
from gpt2lab.model.llmc import read_checkpoint, read_debug_state, read_tensors, write_checkpoint
from gpt2lab.model.params import GPTConfig

CONFIG = GPTConfig(n_layer=3, n_head=2, n_embd=8, max_seq_len=6, vocab_size=10)  # no two fields alike


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "model.bin"
    with path.open("wb") as file:
        write_checkpoint(file, init_params(CONFIG, seed=0), CONFIG)
    return path


def patch(path: Path, index: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[4 * index : 4 * index + 4] = int(value).to_bytes(4, "little", signed=True)
    path.write_bytes(content)


def test_writing_what_llmc_wrote_gives_the_same_bytes(golden):
    params, config = read_checkpoint(golden / "model.bin")
    copy = io.BytesIO()
    write_checkpoint(copy, params, config)
    assert copy.getvalue() == (golden / "model.bin").read_bytes()


def test_write_read_write_is_byte_identical(checkpoint, tmp_path):
    params, config = read_checkpoint(checkpoint)
    assert config == CONFIG
    copy = io.BytesIO()
    write_checkpoint(copy, params, config)
    assert copy.getvalue() == checkpoint.read_bytes()


def test_version_5_is_read_as_the_rounded_values(checkpoint):
    params, _ = read_checkpoint(checkpoint)
    content = checkpoint.read_bytes()
    halves = np.frombuffer(content[1024:], dtype="<u4") >> 16
    checkpoint.write_bytes(content[:1024] + halves.astype("<u2").tobytes())
    patch(checkpoint, 1, 5)
    read, config = read_checkpoint(checkpoint)
    assert config == CONFIG
    for name, array in params.items():
        np.testing.assert_allclose(read[name], array, rtol=2**-7)  # truncated to 8 significant bits
        assert read[name].dtype == np.float32


@pytest.mark.parametrize(
    ("index", "value", "words"),
    [
        (0, 20240520, "magic number 20240520, expected 20240326"),
        (1, 4, "version 4"),
        (2, 7, "truncated"),
        (2, -1, "no model that can exist"),
        (5, 3, "not divisible"),
        (6, 2_000_000_000, "a dimension above"),
        (4, 16_000_000, "truncated"),
    ],
)
def test_a_damaged_header_is_refused_by_name(checkpoint, index, value, words):
    patch(checkpoint, index, value)
    with pytest.raises(DataError, match=words) as error:
        read_checkpoint(checkpoint)
    assert str(checkpoint) in str(error.value)


@pytest.mark.parametrize("size", [0, 3, 1023, 1024, 5000])
def test_a_truncated_checkpoint_is_refused(checkpoint, size):
    checkpoint.write_bytes(checkpoint.read_bytes()[:size])
    with pytest.raises(DataError, match=r"too short|truncated"):
        read_checkpoint(checkpoint)


def test_a_checkpoint_with_more_bytes_than_its_header_says_is_refused(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0\0\0\0")
    with pytest.raises(DataError, match="longer than its header says"):
        read_checkpoint(checkpoint)


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_checkpoint(tmp_path / "none.bin")


def test_a_debug_state_is_read_with_its_shapes(golden):
    _, config = read_checkpoint(golden / "model.bin")
    state = read_debug_state(golden / "debug_state.bin", config)
    assert state.inputs.shape == state.targets.shape == (4, 16)
    assert state.logits.shape == (4, 16, 96)
    assert state.loss == pytest.approx(np.log(96), abs=0.2)
    assert {name: g.shape for name, g in state.gradients.items()} == {
        name: p.shape for name, p in read_checkpoint(golden / "model.bin")[0].items()
    }


def test_a_truncated_debug_state_is_refused(golden, tmp_path):
    _, config = read_checkpoint(golden / "model.bin")
    short = tmp_path / "state.bin"
    short.write_bytes((golden / "debug_state.bin").read_bytes()[:-4])
    with pytest.raises(DataError, match="truncated"):
        read_debug_state(short, config)
    with pytest.raises(DataError, match="magic number 20240326, expected 20240327"):
        read_debug_state(golden / "model.bin", config)


def test_tensors_without_a_header_need_the_exact_size(golden):
    params, config = read_checkpoint(golden / "model.bin")
    after = read_tensors(golden / "params_after.bin", config)
    assert list(after) == list(params)
    with pytest.raises(DataError, match="expected"):
        read_tensors(golden / "model.bin", config)
