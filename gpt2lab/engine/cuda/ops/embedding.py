"""Token and position embeddings: cuda/embedding.cu."""

from dataclasses import dataclass

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics

_THREADS = constant("embedding.cu", "THREADS")
_PACKS, _GROUPS = (constant("embedding.cu", name) for name in ("PACKS", "GROUPS"))  # threads of a backward block
_SPREAD = constant("embedding.cu", "SPREAD")  # blocks that share few segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Rows with the same key, all int32: keys (rows,), and `order` and `segments` as from `group_rows`."""

    keys: Array
    order: Array
    segments: Array


class Embedding:
    """x[b,t,:] = wte[tokens[b,t],:] + wpe[t,:], and the gradients of wte and wpe.

    x, dx (B, T, C) act; tokens (B, T) int32; wte, dwte (Vp, C) and wpe, dwpe (max_seq_len, C) float. Nodes of a tree
    are one sequence (1, n, C) whose `positions` (n,) int32 are given.
    """

    def __init__(self, device: Device, numerics: Numerics, *, n_embd: int) -> None:
        self._vec = numerics.pack(n_embd)
        self._module = device.compile("embedding.cu", numerics.defines | {"VEC": self._vec})

    def forward(self, *, x: Array, tokens: Array, wte: Array, wpe: Array, positions: Array | None = None) -> None:
        """Write x."""
        B, T, C = x.shape
        n_packs = B * T * C // self._vec
        self._module.launch(
            "embedding_forward",
            -(-n_packs // _THREADS),
            _THREADS,
            x=x,
            tokens=tokens,
            positions=positions,
            wte=wte,
            wpe=wpe,
            rows=B * T,
            T=T,
            C=C,
        )

    def backward(
        self,
        *,
        dwte: Array,
        dwpe: Array,
        dx: Array,
        tokens: Array,
        order: Array,
        segments: Array,
        positions: Groups | None = None,
    ) -> None:
        """Add to dwte and dwpe; `order` and `segments` int32 come from `group_rows` of the same tokens."""
        B, T, C = dx.shape
        if positions is None:
            block, slices = (_PACKS, _GROUPS), self._slices(C)
            self._module.launch("embedding_backward_positions", (T, slices), block, dwpe=dwpe, dx=dx, B=B, T=T, C=C)
        else:
            self._add_groups(dwpe, dx, positions)
        self._add_groups(dwte, dx, Groups(keys=tokens, order=order, segments=segments))

    def _add_groups(self, target: Array, dx: Array, groups: Groups) -> None:
        """target[k,:] += sum of the rows of dx with key k."""
        C, most = dx.shape[-1], len(groups.segments) - 2
        self._module.launch(
            "embedding_backward_tokens",
            (max(-(-most // _GROUPS), min(most, _SPREAD)), self._slices(C)),
            (_PACKS, _GROUPS),
            dwte=target,
            dx=dx,
            tokens=groups.keys,
            order=groups.order,
            segments=groups.segments,
            C=C,
        )

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
