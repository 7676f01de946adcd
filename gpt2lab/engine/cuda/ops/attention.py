"""Causal self-attention, forward and backward, of rows of any length."""

from gpt2lab.engine.cuda.device import Array, Device, Module
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.errors import EngineError

MAX_HEAD_SIZE = 256  # four tiles of a few rows of a head must fit into the 48 KiB that a block has of shared memory

# Up to here one warp takes all queries of a head. At this length the long kernels' tile of 64 queries by 32 keys is
# still three quarters idle and four barriers long; past it a group of threads would no longer be part of one warp.
LONGEST_SHORT = 32

_SHORT_THREADS = constant("attention_short.cu", "THREADS")
_LONG_THREADS = constant("attention_long.cu", "THREADS")
_SIDE = constant("attention_long.cu", "SIDE")  # threads along a side of a tile


class Attention:
    """out = softmax(q k' / sqrt(HS)) v for each head, position t seeing positions 0..t; scores are never stored.

    qkv and dqkv are (B*T, 3C): q, k, v of head h in columns h*HS, C + h*HS, 2C + h*HS; out and dout (B*T, C); lse and
    delta (B, NH, T) float. Raises EngineError for heads that are too large. Rows of up to `longest_short` positions
    (at most 32) take the kernels for short rows. A kernel is compiled when it is first needed.
    """

    def __init__(
        self, device: Device, numerics: Numerics, *, n_head: int, head_size: int, longest_short: int = LONGEST_SHORT
    ) -> None:
        check_head_size(head_size)
        assert longest_short <= LONGEST_SHORT, "a row of the short kernels belongs to one warp"
        self._device = device
        self._defines = numerics.defines | {"VEC": numerics.pack(head_size), "HEAD_SIZE": head_size}
        self._n_head = n_head
        self._longest_short = longest_short
        # Rows of a tile.
        self._forward_tile = _SIDE * constant("attention_long.cu", "FORWARD_ROWS", HEAD_SIZE=head_size)
        self._backward_tile = _SIDE * constant("attention_long.cu", "BACKWARD_ROWS", HEAD_SIZE=head_size)
        self._modules: dict[tuple[str | int, ...], Module] = {}

    def forward(
        self, *, qkv: Array, B: int, T: int, q: Array | None = None, positions: Array | None = None, **written: Array
    ) -> None:
        """Write out, and lse = log sum_j exp(q[t] . k[j] / sqrt(HS)), which backward wants again.

        With q (B*n, C) for queries at `positions` (n,) int32 ascending of each row only, n >= 1, which see the same
        keys as there: out is (B*n, C), lse (B, NH, n), and of qkv only keys and values are read.
        """
        n = T if positions is None else len(positions)
        assert n <= T, "positions are distinct"
        sizes = {"n": n, "T": T, "NH": self._n_head}
        arguments = written | {"queries": qkv if q is None else q, "qkv": qkv, "positions": positions} | sizes
        if self._is_short(T):
            module, n_blocks = self._short(B, T, at_positions=positions is not None)
            module.launch("attention_short_forward", n_blocks, _SHORT_THREADS, **arguments, B=B)
            return
        n_tiles = -(-n // self._forward_tile)
        module = self._long(at_positions=positions is not None)
        module.launch("attention_long_forward", B * self._n_head * n_tiles, _LONG_THREADS, **arguments, n_tiles=n_tiles)

    def backward(
        self,
        *,
        dqkv: Array,
        dout: Array,
        out: Array,
        lse: Array,
        qkv: Array,
        delta: Array,
        B: int,
        T: int,
        q: Array | None = None,
        dq: Array | None = None,
        positions: Array | None = None,
    ) -> None:
        """Write all of dqkv, from dout and what forward was given and wrote; delta is scratch.

        With q and positions as in forward: write dq (B*n, C) and the gradients of keys and values in every row of dqkv
        (B*T, 3C), whose first C columns stay as they are. dout and out are (B*n, C), delta (B, NH, n).
        """
        NH, n, at_positions = self._n_head, T if positions is None else len(positions), positions is not None
        dq, q = (dqkv, qkv) if q is None else (dq, q)
        shared = {"dout": dout, "lse": lse, "queries": q, "qkv": qkv, "positions": positions, "n": n, "T": T, "NH": NH}
        if self._is_short(T):
            module, n_blocks = self._short(B, T, at_positions=at_positions)
            written = {"dqueries": dq, "dqkv": dqkv}
            module.launch("attention_short_backward", n_blocks, _SHORT_THREADS, **written, **shared, out=out, B=B)
            return
        module, n_rows = self._long(at_positions=at_positions), B * n * NH
        assert n_rows < 2**31, "rows of heads are counted by an int"
        sums = {"delta": delta, "dout": dout, "out": out}
        module.launch("attention_long_delta", -(-n_rows // _SIDE), _LONG_THREADS, **sums, n_rows=n_rows, n=n, NH=NH)
        for name, written, rows in (("kv", {"dqkv": dqkv}, T), ("q", {"dqueries": dq}, n)):
            n_tiles = -(-rows // self._backward_tile)
            grid, arguments = B * NH * n_tiles, written | shared | {"delta": delta, "n_tiles": n_tiles}
            module.launch(f"attention_long_backward_{name}", grid, _LONG_THREADS, **arguments)

    def _is_short(self, seq_len: int) -> bool:
        return seq_len <= self._longest_short

    def _short(self, B: int, T: int, *, at_positions: bool) -> tuple[Module, int]:
        """Return the kernels for rows of T positions, and how many blocks they take."""
        group = next(size for size in (8, 16, 32) if size >= T)
        module = self._compiled("attention_short.cu", at_positions=at_positions, defines={"GROUP": group})
        return module, -(-B * self._n_head * group // _SHORT_THREADS)

    def _long(self, *, at_positions: bool) -> Module:
        return self._compiled("attention_long.cu", at_positions=at_positions, defines={})

    def _compiled(self, file: str, *, at_positions: bool, defines: dict[str, int]) -> Module:
        defines = self._defines | defines | {"AT_POSITIONS": int(at_positions)}
        key: tuple[str | int, ...] = (file, *defines.values())
        if key not in self._modules:
            self._modules[key] = self._device.compile(file, defines)
        return self._modules[key]


def check_head_size(head_size: int) -> None:
    """Raise EngineError for heads that are too large."""
    if not 1 <= head_size <= MAX_HEAD_SIZE:
        raise EngineError(
            f"model.n_embd / model.n_head: heads of {head_size} channels; engine=cuda takes 1 to {MAX_HEAD_SIZE}: "
            "choose more heads, or engine=torch"
        )
