"""Attention of a pass: over rows or over the nodes of a tree, of every query or of the counted ones."""

import functools

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.attention import Attention
from gpt2lab.engine.cuda.ops.tree_attention import TreeAttention
from gpt2lab.engine.cuda.passes import DevicePass
from gpt2lab.model.params import GPTConfig


class PassAttention:
    """softmax(q k' / sqrt(HS)) v over the keys that each query of a pass sees.

    Shapes: rows of the pass and m counted ones; qkv, dqkv (rows, 3C); lse (rows, NH) or (m, NH), of which the kernels
    order the values as they like. Kernels for trees are compiled when the first one comes.
    """

    def __init__(self, device: Device, numerics: Numerics, config: GPTConfig, *, delta: Array, partials: Array) -> None:
        """Take scratch as planned in memory.py."""
        self._device, self._numerics, self._config = device, numerics, config
        self._of_rows = Attention(device, numerics, n_head=config.n_head, head_size=config.head_size)
        self._delta, self._partials = delta, partials

    def forward(self, of: DevicePass, *, qkv: Array, q: Array | None = None, **written: Array) -> None:
        """Write out (rows, C) and lse; with queries q (m, C) at the counted rows: out (m, C) and lse of these.

        Then only keys and values are read of qkv.
        """
        where = None if q is None else of.counted
        if of.is_tree:
            q = qkv if q is None else q
            self._of_tree.forward(q=q, qkv=qkv, nodes=where, **of.named("path", "positions"), **written)
        else:
            self._of_rows.forward(q=q, qkv=qkv, positions=where, B=of.B, T=of.T, **written)

    def backward(self, of: DevicePass, *, q: Array | None = None, dq: Array | None = None, **arrays: Array) -> None:
        """Write all of dqkv, from dout, out, lse and qkv; with queries q: dq (m, C), and columns C to 3C of dqkv."""
        where, delta = None if q is None else of.counted, self._delta
        if not of.is_tree:
            self._of_rows.backward(q=q, dq=dq, positions=where, delta=delta, B=of.B, T=of.T, **arrays)
            return
        prefix = "" if q is None else "counted_"
        items, sums = (of.arrays[f"{prefix}{name}"] for name in ("items", "sums"))
        arrays |= {"q": arrays["qkv"], "dq": arrays["dqkv"]} if q is None else {"q": q, "dq": dq}
        arrays |= of.named("path", "positions")
        self._of_tree.backward(nodes=where, items=items, sums=sums, delta=delta, partials=self._partials, **arrays)

    @functools.cached_property
    def _of_tree(self) -> TreeAttention:
        config = self._config
        return TreeAttention(self._device, self._numerics, n_head=config.n_head, head_size=config.head_size)
