"""data=modular: all equations a OP b = c modulo a number (Power et al., 2022, "Grokking").

Rows are `BOS a OP b EQ c EOS EOS`. Tokens are the numbers 0 ... p-1, then BOS, EOS, EQ, then one for each operation.
"""

import math

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
_SIGNS = {Operation.add: "+", Operation.sub: "-", Operation.mul: "*", Operation.div: "/", Operation.sq_sum: "sq_sum"}
_RULES = {
    Operation.add: "a + b = c",
    Operation.sub: "a - b = c",
    Operation.mul: "a * b = c",
    Operation.div: "a / b = c, b not 0",
    Operation.sq_sum: "a^2 + b^2 = c",
}


def _describe(config: DataConfig, vocab_size: int | None) -> Source:
    """Raises ConfigError for a modulus that division cannot use, and for one too large to list."""
    p = config.prime
    if p > MAX_PRIME:
        raise ConfigError(f"data.prime={p}: expected at most {MAX_PRIME}, since all {p}^2 equations are listed")
    if config.operation is Operation.div and not _is_prime(p):
        raise ConfigError(
            f"data.prime={p} is not a prime number, and data.operation=div needs one: "
            f"use {_prime_below(p)} or {_prime_above(p)}, or another operation"
        )
    best_loss = np.zeros(_ROW_LEN)
    best_loss[0] = math.log(p)
    best_loss[2] = math.log(p - _first_b(config))
    symbols = (*(str(number) for number in range(p)), "BOS", "EOS", "=", *(_SIGNS[op] for op in Operation))
    return describe_rows("modular", SymbolTokenizer("equations", symbols), best_loss, (_ANSWER, _ANSWER))


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    return with_rows(source, list_equations(config), config, f"{_RULES[config.operation]} (mod {config.prime})")


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
    rows[:, _ANSWER + 1] = _results(config.operation, a, b, p)
    return rows


def _first_b(config: DataConfig) -> int:
    return int(config.operation is Operation.div)


def _results(operation: Operation, a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    if operation is Operation.add:
        return (a + b) % p
    if operation is Operation.sub:
        return (a - b) % p
    if operation is Operation.mul:
        return (a * b) % p
    if operation is Operation.sq_sum:
        return (a * a + b * b) % p
    inverses = np.array([0, *(pow(number, -1, p) for number in range(1, p))])
    return (a * inverses[b]) % p


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _prime_below(number: int) -> int:
    return next(candidate for candidate in range(number, 1, -1) if _is_prime(candidate))


def _prime_above(number: int) -> int:
    return next(candidate for candidate in range(number, 2 * number + 1) if _is_prime(candidate))


MODULAR = SourceKind(name="modular", keys=SPLIT_KEYS | {"operation", "prime"}, describe=_describe, read=_read)
