"""data=modular: all equations a OP b = c modulo a number (Power et al., 2022, "Grokking").

Rows are `BOS a OP b EQ c EOS EOS`. Tokens are the numbers 0 ... p-1, then BOS, EOS, EQ, then one for each operation.
"""

import math
from collections.abc import Callable

import numpy as np

from gpt2lab.data.download import Progress
from gpt2lab.data.sources.base import Source, SourceKind
from gpt2lab.data.sources.rows import SPLIT_KEYS, describe_rows, with_rows
from gpt2lab.data.tokenizers import SymbolTokenizer
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, Operation

MAX_PRIME = 4096  # all pairs are listed: 16.8 million equations, 268 MB
_ROW_LEN = 8
_ANSWER = 4  # target position of c
# The sign, the rule for a reader, and c before it is reduced modulo p.
_OPERATIONS: dict[Operation, tuple[str, str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]]] = {
    Operation.add: ("+", "a + b = c", lambda a, b, p: a + b),
    Operation.sub: ("-", "a - b = c", lambda a, b, p: a - b),
    Operation.mul: ("*", "a * b = c", lambda a, b, p: a * b),
    Operation.div: ("/", "a / b = c, b not 0", lambda a, b, p: a * _inverses(p)[b]),
    Operation.sq_sum: ("sq_sum", "a^2 + b^2 = c", lambda a, b, p: a * a + b * b),
}


def _describe(config: DataConfig, vocab_size: int | None) -> Source:
    """Raises ConfigError for a modulus that division cannot use, and for one too large to list."""
    p = config.prime
    if p > MAX_PRIME:
        raise ConfigError(f"data.prime={p}: expected at most {MAX_PRIME}, since all {p}^2 equations are listed")
    if config.operation is Operation.div and not _is_prime(p):
        below, above = (next(filter(_is_prime, numbers)) for numbers in (range(p, 1, -1), range(p, 2 * p)))
        raise ConfigError(
            f"data.prime={p} is not a prime number, and data.operation=div needs one: "
            f"use {below} or {above}, or another operation"
        )
    best_loss = np.zeros(_ROW_LEN)
    best_loss[0] = math.log(p)
    best_loss[2] = math.log(p - _first_b(config))
    symbols = (*(str(number) for number in range(p)), "BOS", "EOS", "=", *(_OPERATIONS[op][0] for op in Operation))
    tokenizer = SymbolTokenizer("equations", symbols)
    return describe_rows("modular", tokenizer, best_loss, (_ANSWER, _ANSWER), answer_choices=p)


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    return with_rows(source, list_equations(config), config, f"{_OPERATIONS[config.operation][1]} (mod {config.prime})")


def list_equations(config: DataConfig) -> np.ndarray:
    """Return all equations, uint16 (n, 8), ordered by a and b. Division leaves out b = 0."""
    p = config.prime
    a, b = (axis.ravel() for axis in np.meshgrid(np.arange(p), np.arange(_first_b(config), p), indexing="ij"))
    bos, eos, eq = p, p + 1, p + 2
    operation = p + 3 + list(Operation).index(config.operation)
    rows = np.empty((a.size, _ROW_LEN), dtype=np.uint16)
    rows[:, [0, 2, 4, 6, 7]] = bos, operation, eq, eos, eos
    rows[:, 1] = a
    rows[:, 3] = b
    rows[:, _ANSWER + 1] = _OPERATIONS[config.operation][2](a, b, p) % p
    return rows


def _first_b(config: DataConfig) -> int:
    return int(config.operation is Operation.div)


def _inverses(p: int) -> np.ndarray:
    return np.array([0, *(pow(number, -1, p) for number in range(1, p))])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


MODULAR = SourceKind(name="modular", keys=SPLIT_KEYS | {"operation", "prime"}, describe=_describe, read=_read)
