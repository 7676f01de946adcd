"""How much a model stores and computes: from its shape alone, and from counts of what is computed.

A multiply-add counts as two floating point operations; the backward pass as twice the forward pass.
Source: Kaplan et al., 2020, section 2.1; PaLM (Chowdhery et al., 2022), appendix B.
"""

from dataclasses import dataclass

from gpt2lab.model.bands import density
from gpt2lab.model.params import GPTConfig, count_parameters


def count_active_parameters(config: GPTConfig) -> int:
    """Return the parameters that training can change: without padded vocabulary rows and without band zeros."""
    C, L = config.n_embd, config.n_layer
    removed = (2 - density(C, config.fc1_band) - density(C, config.fc2_band)) * 4 * C * C * L
    padding = (config.padded_vocab_size - config.vocab_size) * C
    return count_parameters(config) - round(removed) - padding


def dense_flop_per_token(config: GPTConfig, seq_len: int) -> int:
    """Return 6N + 12LCT: the usual count for a training step per token, with N all parameters but positions."""
    position_embeddings = config.max_seq_len * config.n_embd
    padding = (config.padded_vocab_size - config.vocab_size) * config.n_embd
    N = count_parameters(config) - position_embeddings - padding
    return 6 * N + 12 * config.n_layer * config.n_embd * seq_len


def kept_flop_per_token(config: GPTConfig, seq_len: int) -> int:
    """Return the same count without the products that a band makes unnecessary (done or not)."""
    C = config.n_embd
    removed = (2 - density(C, config.fc1_band) - density(C, config.fc2_band)) * 4 * C * C * config.n_layer
    return dense_flop_per_token(config, seq_len) - 6 * round(removed)


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
        return Counts(
            rows=self.rows + other.rows,
            last_rows=self.last_rows + other.last_rows,
            logit_rows=self.logit_rows + other.logit_rows,
            pairs=self.pairs + other.pairs,
            last_pairs=self.last_pairs + other.last_pairs,
        )

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


def training_flop(
    config: GPTConfig, counts: Counts, *, fc1_multiply_adds: int | None = None, fc2_multiply_adds: int | None = None
) -> int:
    """Return the operations of matrix products and attention in a training step with these counts.

    `fc1_multiply_adds` and `fc2_multiply_adds` are those of an MLP matrix for one row, in its three products together:
    forward, gradient of the input, gradient of the weight. None: dense, 3 * 4C^2. Of the scores only causal pairs
    count, so a plain batch has T(T+1)/2 of them per sequence and layer where 6N + 12LCT takes T^2; logits have V
    columns. Left out as there: norms, biases, GELU, softmax, the update.
    """
    C = config.n_embd
    dense = 3 * C * config.n_hidden
    mlp = (dense if fc1_multiply_adds is None else fc1_multiply_adds) + (
        dense if fc2_multiply_adds is None else fc2_multiply_adds
    )
    # Multiply-adds of forward and backward together: three times those of forward.
    key_value, query_projection = 3 * 2 * C * C, 3 * 2 * C * C
    per_pair = 3 * 2 * C  # a score and its part of the sum of values, over all heads
    inner = counts.rows * (key_value + query_projection + mlp) + counts.pairs * per_pair
    last = counts.rows * key_value + counts.last_rows * (query_projection + mlp) + counts.last_pairs * per_pair
    return 2 * ((config.n_layer - 1) * inner + last + 3 * counts.logit_rows * C * config.vocab_size)
