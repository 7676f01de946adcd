"""Synthetic examples of fixed length as a source.

Every example is a row of T tokens, every possible example exists once, and `data.split_seed` decides which are trained
on. So answers can be graded, and the best loss that any model can reach is known for each position.
"""

import hashlib
from dataclasses import replace

import numpy as np

from gpt2lab.data.batches import Split
from gpt2lab.data.sources.base import Source
from gpt2lab.data.tokenizers import SymbolTokenizer
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig

SPLIT_KEYS = frozenset({"train_fraction", "split_seed"})  # keys of DataConfig that `with_rows` uses


def describe_rows(
    name: str, tokenizer: SymbolTokenizer, best_loss: np.ndarray, answer_span: tuple[int, int], *, answer_choices: int
) -> Source:
    """Return the description of rows that begin with BOS; `best_loss` is (T,), in nats."""
    return Source(
        name=name,
        tokenizer=tokenizer,
        vocab_size=tokenizer.vocab_size,
        own_symbols=True,
        is_synthetic=True,
        row_len=len(best_loss),
        answer_span=answer_span,
        answer_choices=answer_choices,
        best_loss=best_loss,
        prompt="BOS",
    )


def with_rows(source: Source, rows: np.ndarray, config: DataConfig, rule: str) -> Source:
    """Return `source` with its examples, `rows` (n, T) uint16, split by data.train_fraction and data.split_seed.

    `rule` says for a reader what a row states. Raises ConfigError for a split with an empty side.
    """
    n_train = int(config.train_fraction * len(rows))
    if not 0 < n_train < len(rows):
        raise ConfigError(
            f"data.train_fraction={config.train_fraction}: of {len(rows)} examples {n_train} would be trained on; "
            "expected at least one on each side"
        )
    order = np.random.default_rng(config.split_seed).permutation(len(rows))
    train, val = rows[order[:n_train]], rows[order[n_train:]]
    digest = hashlib.sha256(train.astype("<u2").tobytes() + val.astype("<u2").tobytes())
    return replace(
        source,
        splits={
            name: Split(shards=(part.reshape(-1),), n_bytes=None) for name, part in (("train", train), ("val", val))
        },
        files={source.name: digest.hexdigest()},  # of all rows, in the order of the split
        detail={
            "rule": rule,
            "train_examples": len(train),
            "val_examples": len(val),
            "train_fraction": config.train_fraction,
            "split_seed": config.split_seed,
        },
    )
