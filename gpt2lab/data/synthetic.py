"""Data whose rules are known: equations modulo a number, and tasks on strings of bits.

Every example is a row of fixed length, every possible example exists once, and a seed decides which are trained on.
So the answers can be graded, and the best loss that any model can reach is known for each position.

Equations (Power et al., 2022, "Grokking") are rows `BOS a OP b EQ c EOS EOS`. Tasks on bits are rows of 20 positions,
`BOS x1 ... xn TASK y1 ... ym EOS ...`, where the separator names the task.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2lab.data.tokenizers import SymbolTokenizer
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, FormalTask, Operation

MAX_PRIME = 4096  # all pairs are listed: 16.8 million equations, 268 MB
FORMAL_ROW_LEN = 20
_SIGNS = {Operation.add: "+", Operation.sub: "-", Operation.mul: "*", Operation.div: "/", Operation.sq_sum: "sq_sum"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Examples of T tokens each, and what is known about them."""

    train: np.ndarray  # (n_train, T) uint16
    val: np.ndarray  # (n_val, T) uint16
    tokenizer: SymbolTokenizer
    answer_span: tuple[int, int]  # first and last target position of the answer, inclusive
    best_loss: np.ndarray  # (T,) float64, lowest expected loss at each target position, nats
    rule: str  # what a row says, for a reader


def modular_rows(config: DataConfig) -> Rows:
    """Return all equations a OP b = c modulo `data.prime`, split by `data.split_seed`.

    Division leaves out b = 0. Tokens are the numbers 0 ... p-1, then BOS, EOS, EQ, then one for each operation.
    Raises ConfigError for a modulus that division cannot use, one too large to list, or a split with an empty side.
    """
    p = config.prime
    if p > MAX_PRIME:
        raise ConfigError(f"data.prime={p}: expected at most {MAX_PRIME}, since all {p}^2 equations are listed")
    division = config.operation is Operation.div
    if division and not _is_prime(p):
        raise ConfigError(
            f"data.prime={p} is not a prime number, and data.operation=div needs one: "
            f"use {_prime_below(p)} or {_prime_above(p)}, or another operation"
        )
    a, b = (axis.ravel() for axis in np.meshgrid(np.arange(p), np.arange(int(division), p), indexing="ij"))
    bos, eos, eq = p, p + 1, p + 2
    operation = p + 3 + list(Operation).index(config.operation)
    rows = np.empty((a.size, 8), dtype=np.uint16)
    rows[:, [0, 2, 4, 6, 7]] = bos, operation, eq, eos, eos
    rows[:, 1] = a
    rows[:, 3] = b
    rows[:, 5] = _results(config.operation, a, b, p)
    best_loss = np.zeros(8)
    best_loss[0] = math.log(p)
    best_loss[2] = math.log(p - 1 if division else p)
    train, val = _split(rows, config)
    symbols = (*(str(number) for number in range(p)), "BOS", "EOS", "=", *(_SIGNS[op] for op in Operation))
    return Rows(
        train=train,
        val=val,
        tokenizer=SymbolTokenizer("equations", symbols),
        answer_span=(4, 4),
        best_loss=best_loss,
        rule=f"{_RULES[config.operation]} (mod {p})",
    )


def formal_rows(config: DataConfig) -> Rows:
    """Return all 2^n bit strings of `data.input_len` bits with their answers, split by `data.split_seed`.

    copy and reverse answer with n bits, parity (1 for an odd number of ones) and majority (ties are 0) with one.
    Tokens are 0, 1, BOS, EOS, then one separator for each task. Raises ConfigError when the row cannot hold the
    input and its answer, or a side of the split is empty.
    """
    n = config.input_len
    repeats = config.task in (FormalTask.copy, FormalTask.reverse)
    answer_bits, longest = (n, 8) if repeats else (1, 16)
    if n > longest:
        raise ConfigError(
            f"data.input_len={n}: data.task={config.task.name} has room for {longest} bits at most in its row of "
            f"{FORMAL_ROW_LEN} positions"
        )
    bits = (np.arange(2**n)[:, None] >> np.arange(n)[::-1]) & 1
    bos, eos = 2, 3
    rows = np.full((2**n, FORMAL_ROW_LEN), eos, dtype=np.uint16)
    rows[:, 0] = bos
    rows[:, 1 : n + 1] = bits
    rows[:, n + 1] = 4 + list(FormalTask).index(config.task)
    rows[:, n + 2 : n + 2 + answer_bits] = _ANSWERS[config.task](bits)
    best_loss = np.zeros(FORMAL_ROW_LEN)
    best_loss[:n] = math.log(2)
    train, val = _split(rows, config)
    return Rows(
        train=train,
        val=val,
        tokenizer=SymbolTokenizer("bits", ("0", "1", "BOS", "EOS", *(task.name for task in FormalTask))),
        answer_span=(n + 1, n + answer_bits),
        best_loss=best_loss,
        rule=f"{config.task.name} of {n} bits",
    )


_RULES = {
    Operation.add: "a + b = c",
    Operation.sub: "a - b = c",
    Operation.mul: "a * b = c",
    Operation.div: "a / b = c, b not 0",
    Operation.sq_sum: "a^2 + b^2 = c",
}

_ANSWERS: dict[FormalTask, Callable[[np.ndarray], np.ndarray]] = {
    FormalTask.parity: lambda bits: bits.sum(axis=1, keepdims=True) % 2,
    FormalTask.copy: lambda bits: bits,
    FormalTask.reverse: lambda bits: bits[:, ::-1],
    FormalTask.majority: lambda bits: 2 * bits.sum(axis=1, keepdims=True) > bits.shape[1],
}


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


def _split(rows: np.ndarray, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are trained on and the rest, both in the order the seed gives."""
    n_train = int(config.train_fraction * len(rows))
    if not 0 < n_train < len(rows):
        raise ConfigError(
            f"data.train_fraction={config.train_fraction}: of {len(rows)} examples {n_train} would be trained on; "
            "expected at least one on each side"
        )
    order = np.random.default_rng(config.split_seed).permutation(len(rows))
    return rows[order[:n_train]], rows[order[n_train:]]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _prime_below(number: int) -> int:
    return next(candidate for candidate in range(number, 1, -1) if _is_prime(candidate))


def _prime_above(number: int) -> int:
    return next(candidate for candidate in range(number, 2 * number + 1) if _is_prime(candidate))
