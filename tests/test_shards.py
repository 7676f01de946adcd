"""Token shards: the format llm.c writes, and what is refused."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from gpt2lab.data.shards import find_shards, hash_shards, read_shard, write_shard, write_shards
from gpt2lab.errors import DataError


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(1000, dtype=np.uint16))
    return path


def damaged(path, **ints):
    """Overwrite header fields: magic (0), version (1), count (2)."""
    raw = bytearray(path.read_bytes())
    for name, value in ints.items():
        field = ["magic", "version", "count"].index(name)
        raw[4 * field : 4 * field + 4] = np.array([value], dtype="<i4").tobytes()
    path.write_bytes(raw)
    return path


def test_written_tokens_are_read_back_as_a_memory_map(shard):
    tokens = read_shard(shard)
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
    assert np.array_equal(tokens, np.arange(1000))


def test_the_header_is_256_int32_with_magic_version_and_count(shard):
    raw = shard.read_bytes()
    header = np.frombuffer(raw[:1024], dtype="<i4")
    assert header[:3].tolist() == [20240520, 1, 1000] and not header[3:].any()
    assert len(raw) == 1024 + 2000


def test_a_file_of_llmc_is_read_and_written_again_byte_for_byte(tmp_path, golden):
    tokens = read_shard(golden / "train.bin")
    assert tokens.size == 6000 and tokens.max() < 96
    write_shard(tmp_path / "again.bin", tokens)
    assert (tmp_path / "again.bin").read_bytes() == (golden / "train.bin").read_bytes()


@pytest.mark.parametrize(
    ("ints", "words"),
    [
        ({"magic": 20240326}, ["magic number 20240326", "20240520"]),
        ({"version": 2}, ["version 2", "expected 1"]),
        ({"count": 0}, ["0 tokens", "empty"]),
        ({"count": -5}, ["-5 tokens"]),
        ({"count": 1001}, ["3024 bytes", "expected 3026"]),
        ({"count": 999}, ["3024 bytes", "expected 3022"]),
    ],
)
def test_a_wrong_header_is_refused_by_file_name_and_value(shard, ints, words):
    with pytest.raises(DataError) as caught:
        read_shard(damaged(shard, **ints))
    for word in (str(shard), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("kept", [0, 10, 1023, 1024, 3023])
def test_a_truncated_shard_is_refused_by_name(shard, kept):
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"a\.bin: .*(cut short|fewer)"):
        read_shard(shard)


def test_a_missing_shard_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"gone\.bin: cannot be read \(No such file"):
        read_shard(tmp_path / "gone.bin")
    with pytest.raises(DataError, match="cannot be read"):
        read_shard(tmp_path)


def test_a_failed_write_leaves_the_old_shard_and_no_other_file(shard, monkeypatch):
    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(DataError, match="No space left"):
        write_shard(shard, np.zeros(5, dtype=np.uint16))
    assert read_shard(shard).size == 1000
    assert [p.name for p in shard.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("chunk", [1, 7, 10, 25, 100])
def test_a_stream_of_any_chunk_size_becomes_shards_of_equal_length(tmp_path, chunk):
    tokens = np.arange(95, dtype=np.uint16)
    chunks = (tokens[i : i + chunk] for i in range(0, 95, chunk))
    paths = write_shards(tmp_path, chunks, shard_tokens=10)
    assert [p.name for p in paths] == [f"{i:05d}.bin" for i in range(10)]
    parts = [read_shard(p) for p in paths]
    assert [part.size for part in parts] == [10] * 9 + [5]
    assert np.array_equal(np.concatenate(parts), tokens)


def test_no_tokens_make_no_shards(tmp_path):
    assert write_shards(tmp_path, iter(())) == []


def test_patterns_give_sorted_files_and_a_literal_name_wins(tmp_path, monkeypatch):
    for name in ("x_train_2.bin", "x_train_1.bin", "x_val_1.bin", "odd[1].bin"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in find_shards(f"{tmp_path}/*_train_*.bin", key="data.train")] == [
        "x_train_1.bin",
        "x_train_2.bin",
    ]
    assert [p.name for p in find_shards(f"{tmp_path}/odd[1].bin", key="data.train")] == ["odd[1].bin"]
    monkeypatch.chdir(tmp_path)
    assert find_shards("*_val_*.bin", key="data.val") == [Path("x_val_1.bin")]


def test_a_pattern_without_a_match_names_the_key(tmp_path):
    with pytest.raises(DataError, match=r"data\.val=.*none_\*\.bin: no such file"):
        find_shards(f"{tmp_path}/none_*.bin", key="data.val")


def test_hashes_are_named_by_split_and_path_below_the_shared_folder(tmp_path):
    (tmp_path / "more").mkdir()
    files = [tmp_path / "a.bin", tmp_path / "more" / "a.bin"]
    for i, file in enumerate(files):
        write_shard(file, np.full(3, i, dtype=np.uint16))
    calls = []
    hashes = hash_shards({"train": files, "val": files[:1]}, lambda *call: calls.append(call))
    assert hashes == {
        "train/a.bin": hashlib.sha256(files[0].read_bytes()).hexdigest(),
        "train/more/a.bin": hashlib.sha256(files[1].read_bytes()).hexdigest(),
        "val/a.bin": hashlib.sha256(files[0].read_bytes()).hexdigest(),
    }
    assert calls[-1] == ("hashing shards", 3 * 1030, 3 * 1030)
