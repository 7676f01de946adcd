"""Token and position embeddings: cuda/embedding.cu."""

import numpy as np

from gpt2lab.engine.device import Array, Device
from gpt2lab.engine.numerics import Numerics

_PACKS, _GROUPS = 8, 32  # threads of a block in the backward kernels


class Embedding:
    """x[b,t,:] = wte[tokens[b,t],:] + wpe[t,:], and the gradients of wte and wpe.

    x, dx (B, T, C) act; tokens (B, T) int32; wte, dwte (Vp, C) and wpe, dwpe (max_seq_len, C) float.
    """

    def __init__(self, device: Device, numerics: Numerics, *, n_embd: int) -> None:
        self._vec = numerics.pack(n_embd)
        self._module = device.compile("embedding.cu", numerics.defines | {"VEC": self._vec})

    def forward(self, *, x: Array, tokens: Array, wte: Array, wpe: Array) -> None:
        """Write x."""
        B, T, C = x.shape
        n_packs = B * T * C // self._vec
        self._module.launch(
            "embedding_forward", -(-n_packs // 256), 256, x=x, tokens=tokens, wte=wte, wpe=wpe, rows=B * T, T=T, C=C
        )

    def backward(self, *, dwte: Array, dwpe: Array, dx: Array, tokens: Array, order: Array, begins: Array) -> None:
        """Add to dwte and dwpe; `order` (B*T,) and `begins` int32 come from `group_rows` of the same tokens."""
        B, T, C = dx.shape
        slices = -(-C // (_PACKS * self._vec))
        block = (_PACKS, _GROUPS)
        self._module.launch("embedding_backward_positions", (T, slices), block, dwpe=dwpe, dx=dx, B=B, T=T, C=C)
        n_segments = len(begins) - 1
        self._module.launch(
            "embedding_backward_tokens",
            (-(-n_segments // _GROUPS), slices),
            block,
            dwte=dwte,
            dx=dx,
            tokens=tokens,
            order=order,
            begins=begins,
            n_segments=n_segments,
            C=C,
        )


def n_row_groups(n_rows: int, vocab_size: int) -> int:
    """Return how many different tokens n_rows rows can have; `begins` has one entry more."""
    return min(n_rows, vocab_size)


def group_rows(tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows sorted by token, and where each token's rows begin.

    tokens: (B, T) int, below vocab_size. order: (B*T,) int32, rows of one token in rising order. begins: int32, one
    per group of `n_row_groups` and one more; group s is order[begins[s]:begins[s + 1]], groups left over are empty.
    """
    # Sixteen bits are sorted by counting, several times as fast as wider ones by comparing.
    flat = tokens.ravel().astype(np.uint16 if vocab_size <= 2**16 else np.int32)
    order = np.argsort(flat, kind="stable").astype(np.int32)
    by_token = flat[order]
    begins = np.full(n_row_groups(flat.size, vocab_size) + 1, flat.size, dtype=np.int32)
    found = np.flatnonzero(np.concatenate(([True], by_token[1:] != by_token[:-1])))
    begins[: len(found)] = found
    return order, begins
