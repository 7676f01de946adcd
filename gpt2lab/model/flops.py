"""How much a model stores and computes: from its shape alone, and from counts of what is computed.

A record holds two figures, both for one token of a training step, forward and backward:

- `flop_per_token_dense`: 6N + 12LCT, as if every position and every weight were computed. N are all parameters except
  position embeddings and the padding of the vocabulary. Model FLOP utilisation (MFU) is based on it.
- `flop_per_token_computed`: the same count for what the first update computes, divided by all positions of its batch.
  Bands, loss masks and shared prefixes lower it; where nothing is left out it equals the dense figure.

A multiply-add counts as two floating point operations; the backward pass as twice the forward pass. 12LCT counts the
pairs of a query and a key that the causal mask hides, so in both figures a pair of two positions counts twice.
Source: Kaplan et al., 2020, section 2.1; PaLM (Chowdhery et al., 2022), appendix B.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gpt2lab.model.bands import density
from gpt2lab.model.params import GPTConfig, count_parameters


def count_active_parameters(config: GPTConfig) -> int:
    """Return the parameters that training can change: without padded vocabulary rows and without band zeros."""
    C, L = config.n_embd, config.n_layer
    removed = sum(1 - density(C, band) for band in config.bands.values()) * 4 * C * C * L
    padding = (config.padded_vocab_size - config.vocab_size) * C
    return count_parameters(config) - round(removed) - padding


def dense_flop_per_token(config: GPTConfig, seq_len: int) -> int:
    """Return 6N + 12LCT for sequences of T = `seq_len` positions."""
    position_embeddings = config.max_seq_len * config.n_embd
    padding = (config.padded_vocab_size - config.vocab_size) * config.n_embd
    N = count_parameters(config) - position_embeddings - padding
    return 6 * N + 12 * config.n_layer * config.n_embd * seq_len


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What training passes compute: rows of activations, and pairs of a query and a key that it sees.

    `rows` pass through every layer; the last one needs keys and values of all of them, and the rest of what a layer
    does for `last_rows`. Pairs are those of one layer, counted once for all heads.
    """

    rows: int
    last_rows: int
    logit_rows: int
    pairs: int  # in each layer but the last
    last_pairs: int  # in the last

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def times(self, n: int) -> "Counts":
        """Return the counts of `n` passes like this one."""
        return Counts(**{name: n * getattr(self, name) for name in self.__slots__})


def plain_counts(batch_size: int, seq_len: int) -> Counts:
    """Return the counts of a batch of which every position is computed in every layer, and has logits."""
    rows, pairs = batch_size * seq_len, batch_size * seq_len * (seq_len + 1) // 2
    return Counts(rows=rows, last_rows=rows, logit_rows=rows, pairs=pairs, last_pairs=pairs)


def rows_in_words(rows: int, last_rows: int, positions: int, *, trees: int, passes: int) -> str:
    """Return how many rows of activations stand for a batch's positions; in `trees` of its passes they are nodes."""
    if trees == passes:
        words = f"{rows:,} prefix{'es stand' if rows > 1 else ' stands'} for {positions:,} positions"
    elif trees:
        words = f"{rows:,} rows stand for {positions:,} positions ({trees} of {passes} passes share prefixes)"
    else:
        words = f"{rows:,} of {positions:,} positions" if rows < positions else f"all {positions:,} positions"
    return words + (f", {last_rows:,} in the last layer" if last_rows < rows else "")


def computed_flop(config: GPTConfig, counts: Counts, mlp_multiply_adds: Mapping[str, int] | None = None) -> int:
    """Return the operations of a training step with these counts; for `plain_counts` 6N + 12LCT of each token.

    `mlp_multiply_adds`: those of each MLP matrix ("fc1", "fc2") for one row, in its three products together: forward,
    gradient of the input, gradient of the weight. None: dense, 3 * 4C^2 each. Norms and biases count as in 6N.
    """
    C, F = config.n_embd, config.n_hidden
    if mlp_multiply_adds is None:
        mlp_multiply_adds = dict.fromkeys(config.bands, 3 * C * F)
    # Of one row in one layer: what makes keys and values (with the first norm), then the rest.
    key_value = 6 * (2 * C * C + 4 * C)
    rest = 6 * (2 * C * C + 9 * C) + 2 * sum(mlp_multiply_adds.values())
    inner = counts.rows * (key_value + rest) + _attention_flop(C, counts.rows, counts.pairs)
    last = counts.rows * key_value + counts.last_rows * rest
    last += _attention_flop(C, counts.last_rows, counts.last_pairs)
    output = counts.logit_rows * 6 * (C * config.vocab_size + 2 * C)  # with the last norm
    return (config.n_layer - 1) * inner + last + output


def _attention_flop(n_embd: int, queries: int, pairs: int) -> int:
    """Return the operations of scores and sums of values; each query's pair with itself counts once, others twice."""
    return 12 * n_embd * (2 * pairs - queries)
