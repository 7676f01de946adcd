"""Attention of a pass: over rows or over the nodes of a tree, of every query or of the counted ones."""

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
        self._of_tree: TreeAttention | None = None
        self._delta, self._partials = delta, partials

    def forward(self, of: DevicePass, *, out: Array, lse: Array, qkv: Array) -> None:
        """Write out (rows, C) and lse."""
        if of.tree is None:
            self._of_rows.forward(out=out, lse=lse, qkv=qkv, B=of.B, T=of.T)
            return
        self._tree().forward(
            out=out, lse=lse, q=qkv, qkv=qkv, path=of.tree.path, positions=of.tree.positions.keys, nodes=None
        )

    def backward(self, of: DevicePass, *, dqkv: Array, dout: Array, out: Array, lse: Array, qkv: Array) -> None:
        """Write all of dqkv."""
        arrays = {"dqkv": dqkv, "dout": dout, "out": out, "lse": lse, "qkv": qkv}
        if of.tree is None:
            self._of_rows.backward(**arrays, delta=self._delta, B=of.B, T=of.T)
        else:
            self._tree_backward(of, **arrays, dq=dqkv, q=qkv, nodes=None)

    def forward_counted(self, of: DevicePass, *, out: Array, lse: Array, q: Array, qkv: Array) -> None:
        """Write out (m, C) and lse for queries q (m, C) at the counted rows; of qkv only keys and values are read."""
        arrays = {"out": out, "lse": lse, "q": q, "qkv": qkv}
        if of.tree is None:
            self._of_rows.forward_at(**arrays, positions=of.counted, B=of.B, T=of.T)
        else:
            self._tree().forward(**arrays, path=of.tree.path, positions=of.tree.positions.keys, nodes=of.counted)

    def backward_counted(
        self, of: DevicePass, *, dq: Array, dqkv: Array, dout: Array, out: Array, lse: Array, q: Array, qkv: Array
    ) -> None:
        """Write dq (m, C), and columns C to 3C of dqkv."""
        arrays = {"dq": dq, "dqkv": dqkv, "dout": dout, "out": out, "lse": lse, "q": q, "qkv": qkv}
        if of.tree is None:
            self._of_rows.backward_at(**arrays, positions=of.counted, delta=self._delta, B=of.B, T=of.T)
        else:
            self._tree_backward(of, **arrays, nodes=of.counted)

    def _tree_backward(self, of: DevicePass, *, nodes: Array | None, **arrays: Array) -> None:
        assert of.tree is not None
        self._tree().backward(
            **arrays,
            path=of.tree.path,
            positions=of.tree.positions.keys,
            nodes=nodes,
            items=of.tree.items if nodes is None else of.tree.counted_items,
            sums=of.tree.sums if nodes is None else of.tree.counted_sums,
            delta=self._delta,
            partials=self._partials,
        )

    def _tree(self) -> TreeAttention:
        if self._of_tree is None:
            config = self._config
            self._of_tree = TreeAttention(
                self._device, self._numerics, n_head=config.n_head, head_size=config.head_size
            )
        return self._of_tree
