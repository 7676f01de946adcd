"""Writing text with a model, by any engine."""

from collections.abc import Iterator

import numpy as np

from gpt2lab.engine.base import Engine
from gpt2lab.errors import ConfigError


def generate(
    engine: Engine,
    prompt: np.ndarray,
    *,
    count: int,
    max_tokens: int,
    max_seq_len: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yield the next token of each of `count` samples, (count,) int32, `max_tokens` times.

    prompt: (n,) token ids, at least one. Temperature 0 takes the likeliest token; `top_k` draws among the k
    likeliest. A context longer than max_seq_len keeps its last positions.
    """
    if not len(prompt):
        raise ConfigError("the prompt is empty: a sample needs at least one token to begin with")
    rng = np.random.default_rng([seed, 0x5A])
    tokens = np.tile(np.asarray(prompt, dtype=np.int32), (count, 1))
    for _ in range(max_tokens):
        logits = engine.logits(np.ascontiguousarray(tokens[:, -max_seq_len:]), last_only=True)[:, 0]
        chosen = draw(logits, temperature=temperature, top_k=top_k, rng=rng)
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        yield chosen


def draw(logits: np.ndarray, *, temperature: float, top_k: int | None, rng: np.random.Generator) -> np.ndarray:
    """Draw one token per row of `logits` (N, V); returns (N,) int32."""
    if temperature == 0:
        return logits.argmax(axis=1).astype(np.int32)
    scaled = logits.astype(np.float64) / temperature
    if top_k is not None and top_k < scaled.shape[1]:
        smallest_kept = np.partition(scaled, -top_k, axis=1)[:, -top_k, None]
        scaled = np.where(scaled < smallest_kept, -np.inf, scaled)
    gumbel = rng.gumbel(size=scaled.shape)  # the argmax of logits plus Gumbel noise is a draw from their softmax
    return (scaled + gumbel).argmax(axis=1).astype(np.int32)
