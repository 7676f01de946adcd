"""From token shards to batches: which tokens update number `step` sees.

A batch is a pure function of the seed and the step, so resuming a run needs nothing but the step number. Two
readings of the tokens exist. A *stream* is cut into windows: inputs are T tokens, targets the same shifted by one,
and a window never crosses a shard. *Rows* are examples of a fixed length T: the target of the last position is the
row's own first token, because all rows begin with the same token and llm.c, which reads rows as a stream, finds the
next row there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from gpt2lab.errors import DataError
from gpt2lab.schema import Order

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Tokens that belong together: the training, validation or test part of a source."""

    shards: tuple[np.ndarray, ...]  # each (n_tokens,), integers; often memory-mapped uint16
    n_bytes: int | None  # UTF-8 bytes the tokens stand for; None where they stand for no text

    @property
    def n_tokens(self) -> int:
        return sum(shard.size for shard in self.shards)


class Batches:
    """Training batches of one split.

    `shuffled`: each epoch visits every row, or non-overlapping windows of the stream, once in a new random order;
    for a stream the windows also start at a new random offset, so that the cuts move. `sequential`: llm.c's way,
    batch k of a shard starts at token k*B*T, then the next shard, then around again. `batch_size="full"`: every
    row, or every window from token 0 on, in file order, at every step: the same read-only arrays, so that an engine
    plans its passes once.

    Attributes: `seq_len`, `batch_size`, `n_examples` (rows or windows of an epoch), `tokens_per_batch`.
    Raises DataError when the split has fewer examples than a batch.
    """

    def __init__(
        self, split: Split, *, seq_len: int, batch_size: int | str, order: Order, seed: int, row_len: int | None
    ) -> None:
        self._examples = _Examples(split, seq_len=seq_len, row_len=row_len, split_name="train")
        self._full = batch_size == "full"
        self._order = order
        self._seed = seed
        self.seq_len = seq_len
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)  # a batch spans two epochs at most
        self._max_offsets = np.zeros_like(self._examples.counts)
        if not self._full and order is Order.shuffled:
            self._max_offsets = self._examples.max_offsets()
        self._counts = self._examples.count(self._max_offsets)
        self.n_examples = int(self._counts.sum())
        self.batch_size = self.n_examples if isinstance(batch_size, str) else batch_size
        self.tokens_per_batch = self.batch_size * seq_len
        in_reach = int(self._counts.max()) if order is Order.sequential else self.n_examples
        if self.batch_size > in_reach and not self._full:
            where = "the train split" if in_reach == self.n_examples else "the largest train shard"
            raise DataError(
                f"train.batch_size={batch_size}: {where} has only {in_reach} examples of train.seq_len={seq_len} "
                "tokens; lower train.batch_size or train.seq_len, or use more data"
            )

    def batch(self, step: int) -> Batch:
        """Return inputs and targets of update `step`, two int32 (B, T) arrays; step 0 is the first update."""
        assert step >= 0, f"step {step}"
        if self._full:
            return self._whole
        rows = np.arange(self.batch_size)
        if self._order is Order.sequential:
            per_shard = self._counts // self.batch_size
            shard, batch = _locate(np.array([step % int(per_shard.sum())]), per_shard)
            return self._examples.read(np.repeat(shard, rows.size), batch * self.batch_size + rows)
        epochs, numbers = np.divmod(step * self.batch_size + rows, self.n_examples)
        offsets = np.zeros((rows.size, self._counts.size), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            permutation, offsets[here] = self._epoch(int(epoch))
            numbers[here] = permutation[numbers[here]]
        shard, index = _locate(numbers, self._counts)
        return self._examples.read(shard, index, offsets[np.arange(shard.size), shard])

    @cached_property
    def _whole(self) -> Batch:
        whole = self._examples.read(*_locate(np.arange(self.batch_size), self._counts))
        for array in whole:
            array.flags.writeable = False
        return whole

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order (n_examples,) and each shard's first token (n_shards,) of one pass over the data."""
        rng = np.random.default_rng([self._seed, epoch])
        offsets = rng.integers(0, self._max_offsets + 1)
        return rng.permutation(self.n_examples), offsets


def eval_batches(
    split: Split,
    *,
    seq_len: int,
    batch_size: int,
    row_len: int | None,
    count: int | None = None,
    split_name: str = "val",
) -> Iterator[Batch]:
    """Return the first `count` batches of a split (None: all of it) in file order, each example at most once.

    Yields int32 (b, T) inputs and targets with b = `batch_size`, smaller in the last batch. A split smaller than a
    batch is one smaller batch. Raises DataError at once when it has not even one example.
    """
    examples = _Examples(split, seq_len=seq_len, row_len=row_len, split_name=split_name)
    n_examples = int(examples.counts.sum())
    stop = n_examples if count is None else min(n_examples, count * batch_size)
    return (
        examples.read(*_locate(np.arange(first, min(first + batch_size, stop)), examples.counts))
        for first in range(0, stop, batch_size)
    )


class _Examples:
    """The rows or windows of a split, addressed by shard and number within the shard."""

    def __init__(self, split: Split, *, seq_len: int, row_len: int | None, split_name: str) -> None:
        assert row_len in (None, seq_len), f"T = {seq_len}, but rows of {row_len}"
        self._shards = tuple(np.asarray(shard) for shard in split.shards)
        self._sizes = np.array([shard.size for shard in self._shards], dtype=np.int64)
        self._rows = row_len is not None
        self._seq_len = seq_len
        assert not self._rows or not (self._sizes % seq_len).any(), "a shard of rows must hold whole rows"
        self.counts = self.count(np.zeros_like(self._sizes))  # per shard, from its first token on
        if not self.counts.sum():
            longest = int(self._sizes.max(initial=0))
            need = seq_len if self._rows else seq_len + 1
            raise DataError(
                f"train.seq_len={seq_len}: one example takes {need} tokens, but the longest shard of the {split_name} "
                f"split has {longest}; lower train.seq_len or use more data"
            )

    def count(self, offsets: np.ndarray) -> np.ndarray:
        """Return the examples of each shard (n_shards,) when it is read from token `offsets` (n_shards,) on."""
        last_target = 0 if self._rows else 1
        return np.maximum(self._sizes - last_target - offsets, 0) // self._seq_len

    def max_offsets(self) -> np.ndarray:
        """Return how far into each shard (n_shards,) reading may start without losing its only window."""
        if self._rows:
            return np.zeros_like(self._sizes)
        return np.clip(self._sizes - 1 - self._seq_len, 0, self._seq_len - 1)

    def read(self, shards: np.ndarray, numbers: np.ndarray, offsets: np.ndarray | int = 0) -> Batch:
        """Return inputs and targets, int32 (n, T), of the examples (n,), read `offsets` tokens later."""
        T = self._seq_len
        starts = numbers * T + offsets
        positions = np.arange(T if self._rows else T + 1)
        tokens = np.empty((starts.size, T + 1), dtype=np.int32)
        for shard in np.unique(shards):
            here = shards == shard
            tokens[here, : positions.size] = self._shards[shard][starts[here, None] + positions]
        if self._rows:
            tokens[:, T] = tokens[:, 0]
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def _locate(numbers: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn numbers (n,) over all shards into shard (n,) and number within it (n,); `counts` is (n_shards,)."""
    ends = np.cumsum(counts)
    shards = np.searchsorted(ends, numbers, side="right")
    return shards, numbers - (ends - counts)[shards]
