"""Cross entropy and the gradient of the logits: cuda/cross_entropy.cu."""

from dataclasses import dataclass

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics

_THREADS = constant("cross_entropy.cu", "THREADS")
_SUM_THREADS = constant("cross_entropy.cu", "SUM_THREADS")
_WARP = constant("cross_entropy.cu", "WARP")
_PACKS_PER_THREAD = 4  # at least, before another warp shares a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What rows of logits are compared with, where one stands for several targets: see PrefixTree; all int32.

    A row without a pair has loss 0 and gradient 0.
    """

    pair_begins: Array  # (rows + 1,)
    targets: Array  # (p,), distinct and ascending within a row
    counts: Array  # (p,), how often each is counted


class CrossEntropy:
    """losses[r] = log(sum_v exp(logits[r,v])) - logits[r,targets[r]] over the V real of Vp columns, in nats.

    logits (rows, Vp) act, whose padded columns may hold anything; targets (rows,) int32, or Pairs, whose losses are
    added up for each row; losses (rows,) float.
    """

    def __init__(self, device: Device, numerics: Numerics, *, vocab_size: int, padded_vocab_size: int) -> None:
        assert vocab_size < 2**24, "the number of a column is kept as a float"
        vec = numerics.pack(padded_vocab_size)
        warps = 1
        while warps * _WARP < _THREADS and padded_vocab_size > 2 * warps * _WARP * vec * _PACKS_PER_THREAD:
            warps *= 2
        self._rows_per_block = _THREADS // (warps * _WARP)
        self._columns = {"V": vocab_size, "Vp": padded_vocab_size}
        self._module = device.compile("cross_entropy.cu", numerics.defines | {"VEC": vec, "WARPS_PER_ROW": warps})

    def forward(self, *, losses: Array, correct: Array, logits: Array, targets: Array | Pairs) -> None:
        """Write losses, and correct (rows,) int32: how many targets are the first of the largest logits."""
        self._launch("forward", targets, losses=losses, correct=correct, logits=logits)

    def backward(self, *, losses: Array, logits: Array, targets: Array | Pairs, scale: float) -> None:
        """Write losses, and over the logits (softmax - onehot) * scale, for all targets of a row; 0 in padding."""
        self._launch("backward", targets, losses=losses, logits=logits, scale=scale)

    def add_losses(self, *, stats: Array, losses: Array, scale: float) -> None:
        """stats[0] += scale * sum(losses)."""
        self._module.launch("add_losses", 1, _SUM_THREADS, stats=stats, losses=losses, n_rows=losses.size, scale=scale)

    def _launch(self, direction: str, targets: Array | Pairs, *, losses: Array, **arguments: Array | float) -> None:
        name, expected = f"cross_entropy_{direction}", {"targets": targets}
        if isinstance(targets, Pairs):
            name = f"cross_entropy_pairs_{direction}"
            expected = {"pair_begins": targets.pair_begins, "targets": targets.targets, "counts": targets.counts}
        rows = losses.size
        self._module.launch(
            name,
            -(-rows // self._rows_per_block),
            _THREADS,
            losses=losses,
            n_rows=rows,
            **expected,
            **arguments,
            **self._columns,
        )
