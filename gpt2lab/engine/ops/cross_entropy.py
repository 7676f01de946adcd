"""Cross entropy and the gradient of the logits: cuda/cross_entropy.cu."""

from gpt2lab.engine.device import Array, Device
from gpt2lab.engine.numerics import Numerics

_THREADS = 512
_WARP = 32
_PACKS_PER_THREAD = 4  # at least, before another warp shares a row


class CrossEntropy:
    """losses[r] = log(sum_v exp(logits[r,v])) - logits[r,targets[r]] over the V real of Vp columns, in nats.

    logits (rows, Vp) act, whose padded columns may hold anything; targets (rows,) int32; losses (rows,) float.
    """

    def __init__(self, device: Device, numerics: Numerics, *, vocab_size: int, padded_vocab_size: int) -> None:
        vec = numerics.pack(padded_vocab_size)
        warps = 1
        while warps * _WARP < _THREADS and padded_vocab_size > 2 * warps * _WARP * vec * _PACKS_PER_THREAD:
            warps *= 2
        self._rows_per_block = _THREADS // (warps * _WARP)
        self._columns = {"V": vocab_size, "Vp": padded_vocab_size}
        self._module = device.compile("cross_entropy.cu", numerics.defines | {"VEC": vec, "WARPS_PER_ROW": warps})

    def forward(self, *, losses: Array, correct: Array, logits: Array, targets: Array) -> None:
        """Write losses, and correct (rows,) int32: 1 where the target is the first of the largest logits."""
        rows = targets.size
        self._module.launch(
            "cross_entropy_forward",
            -(-rows // self._rows_per_block),
            _THREADS,
            losses=losses,
            correct=correct,
            logits=logits,
            targets=targets,
            n_rows=rows,
            **self._columns,
        )

    def backward(self, *, losses: Array, logits: Array, targets: Array, scale: float) -> None:
        """Write losses, and over the logits (softmax - onehot) * scale; 0 in padded columns."""
        rows = targets.size
        self._module.launch(
            "cross_entropy_backward",
            -(-rows // self._rows_per_block),
            _THREADS,
            losses=losses,
            logits=logits,
            targets=targets,
            n_rows=rows,
            scale=scale,
            **self._columns,
        )

    def add_losses(self, *, stats: Array, losses: Array, scale: float) -> None:
        """stats[0] += scale * sum(losses)."""
        self._module.launch("add_losses", 1, 1024, stats=stats, losses=losses, n_rows=losses.size, scale=scale)
