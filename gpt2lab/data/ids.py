"""Checks and counts over the token ids of a split, in parts that fit into memory."""

from collections.abc import Iterable, Iterator

import numpy as np

from gpt2lab.data.batches import Split
from gpt2lab.errors import DataError

PART_TOKENS = 1_000_000


def check_ids(where: str, tokens: np.ndarray, vocab_size: int) -> None:
    """Raise DataError, naming `where`, when one of the first million tokens (n,) is outside the vocabulary.

    Training and evaluation check the ids of every batch.
    """
    head = tokens[:PART_TOKENS]
    if head.size and int(head.max()) >= vocab_size:
        position = int(np.argmax(head >= vocab_size))
        raise DataError(
            f"{where}: token {int(head[position])} at position {position} is outside the vocabulary of {vocab_size}; "
            f"set data.tokenizer or model.vocab_size to what the tokens were made with"
        )


def unigram_entropy(split: Split, vocab_size: int) -> float:
    """Return the entropy of the split's own token frequencies, in nats per token.

    It is the loss of the best predictor that ignores the context. Raises DataError for an id outside the vocabulary.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for part in parts(split.shards):
        if part.size and int(part.max()) >= vocab_size:
            raise DataError(
                f"the validation split: token {int(part.max())} is outside the vocabulary of {vocab_size}; "
                "set data.tokenizer or model.vocab_size to what the tokens were made with"
            )
        counts += np.bincount(part, minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def parts(shards: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the tokens in parts that fit into memory, even after widening to int64."""
    for shard in shards:
        for start in range(0, shard.size, PART_TOKENS):
            yield np.asarray(shard[start : start + PART_TOKENS])
