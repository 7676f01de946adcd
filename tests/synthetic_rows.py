"""Rows of synthetic sources, as arrays."""

import numpy as np

from gpt2lab.data import Source, read_source
from gpt2lab.schema import DataConfig


def rows_of(source: Source, split: str = "train") -> np.ndarray:
    """The examples of a split, (n, T)."""
    return source.splits[split].shards[0].reshape(-1, source.row_len)


def addition_table() -> np.ndarray:
    """The training half of the addition table modulo 97: (4704, 8) int32."""
    return rows_of(read_source(DataConfig(source="modular", prime=97))).astype(np.int32)
