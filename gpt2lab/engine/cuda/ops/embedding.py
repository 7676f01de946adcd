"""Token and position embeddings: cuda/embedding.cu."""

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics

_THREADS = constant("embedding.cu", "THREADS")
_PACKS, _GROUPS = (constant("embedding.cu", name) for name in ("PACKS", "GROUPS"))  # threads of a backward block
_SPREAD = constant("embedding.cu", "SPREAD")  # blocks that share few segments


class Embedding:
    """x[b,t,:] = wte[tokens[b,t],:] + wpe[t,:], and the gradients of wte and wpe.

    x, dx (B, T, C) act; tokens (B, T) int32; wte, dwte (Vp, C) and wpe, dwpe (max_seq_len, C) float. Nodes of a tree
    are one sequence (1, n, C) whose `positions` (n,) int32 are given.
    """

    def __init__(self, device: Device, numerics: Numerics, *, n_embd: int) -> None:
        self._vec = numerics.pack(n_embd)
        self._module = device.compile("embedding.cu", numerics.defines | {"VEC": self._vec})

    def forward(self, *, x: Array, positions: Array | None = None, **arrays: Array) -> None:
        """Write x, from tokens, wte and wpe."""
        B, T, C = x.shape
        grid, sizes = -(-B * T * C // self._vec // _THREADS), {"rows": B * T, "T": T, "C": C}
        self._module.launch("embedding_forward", grid, _THREADS, x=x, positions=positions, **arrays, **sizes)

    def backward(
        self,
        *,
        dwte: Array,
        dwpe: Array,
        dx: Array,
        tokens: Array,
        order: Array,
        segments: Array,
        positions: Array | None = None,
        position_order: Array | None = None,
        position_segments: Array | None = None,
    ) -> None:
        """Add to dwte and dwpe; order and segments int32 come from `group_rows` of the same tokens, or positions."""
        B, T, C = dx.shape
        if positions is None:
            block, slices = (_PACKS, _GROUPS), self._slices(C)
            self._module.launch("embedding_backward_positions", (T, slices), block, dwpe=dwpe, dx=dx, B=B, T=T, C=C)
        else:
            self._add_groups(dwpe, dx, positions, position_order, position_segments)
        self._add_groups(dwte, dx, tokens, order, segments)

    def _add_groups(self, target: Array, dx: Array, keys: Array, order: Array, segments: Array) -> None:
        """target[k,:] += sum of the rows of dx with key k."""
        C, most = dx.shape[-1], len(segments) - 2
        grid = max(-(-most // _GROUPS), min(most, _SPREAD)), self._slices(C)
        arrays = {"dwte": target, "dx": dx, "tokens": keys, "order": order, "segments": segments}
        self._module.launch("embedding_backward_tokens", grid, (_PACKS, _GROUPS), **arrays, C=C)

    def _slices(self, n_embd: int) -> int:
        """Return how many blocks share the channels of a row."""
        return -(-n_embd // (_PACKS * self._vec))


def segments_size(n_rows: int, vocab_size: int) -> int:
    """Return the length of `segments`: one for each token that n_rows rows can have, and two more."""
    return min(n_rows, vocab_size) + 2


def group_rows(tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows sorted by token, and where each token's rows begin.

    tokens: (B, T) int, below vocab_size. order: (B*T,) int32, rows of one token in rising order. segments:
    (segments_size,) int32; segments[0] = n, then the n places in `order` where another token begins, then B*T.
    """
    # Sixteen bits are sorted by counting, several times as fast as wider ones by comparing.
    flat = tokens.ravel().astype(np.uint16 if vocab_size <= 2**16 else np.int32)
    order = np.argsort(flat, kind="stable").astype(np.int32)
    by_token = flat[order]
    begins = np.flatnonzero(np.concatenate(([True], by_token[1:] != by_token[:-1])))
    segments = np.full(segments_size(flat.size, vocab_size), flat.size, dtype=np.int32)
    segments[0] = len(begins)
    segments[1 : len(begins) + 1] = begins
    return order, segments
