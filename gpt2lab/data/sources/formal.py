"""data=formal: tasks on all strings of n bits.

Rows have 20 positions, `BOS x1 ... xn TASK y1 ... ym EOS ...`, where the separator names the task. Tokens are 0, 1,
BOS, EOS, then one separator for each task.
"""

import math
from collections.abc import Callable

import numpy as np

from gpt2lab.data.download import Progress
from gpt2lab.data.sources.base import Source, SourceKind
from gpt2lab.data.sources.rows import SPLIT_KEYS, describe_rows, with_rows
from gpt2lab.data.tokenizers import SymbolTokenizer
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, FormalTask

_ROW_LEN = 20
_BOS, _EOS, _FIRST_TASK = 2, 3, 4
_ANSWERS: dict[FormalTask, Callable[[np.ndarray], np.ndarray]] = {
    FormalTask.parity: lambda bits: bits.sum(axis=1, keepdims=True) % 2,
    FormalTask.copy: lambda bits: bits,
    FormalTask.reverse: lambda bits: bits[:, ::-1],
    FormalTask.majority: lambda bits: 2 * bits.sum(axis=1, keepdims=True) > bits.shape[1],
}


def _describe(config: DataConfig, vocab_size: int | None) -> Source:
    """Raises ConfigError when the row cannot hold the input and its answer."""
    n = config.input_len
    repeats = config.task in (FormalTask.copy, FormalTask.reverse)
    answer_bits, longest = (n, 8) if repeats else (1, 16)
    if n > longest:
        raise ConfigError(
            f"data.input_len={n}: data.task={config.task.name} has room for {longest} bits at most in its row of "
            f"{_ROW_LEN} positions"
        )
    best_loss = np.zeros(_ROW_LEN)
    best_loss[:n] = math.log(2)
    tokenizer = SymbolTokenizer("bits", ("0", "1", "BOS", "EOS", *(task.name for task in FormalTask)))
    return describe_rows("formal", tokenizer, best_loss, (n + 1, n + answer_bits), answer_choices=2)


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    return with_rows(source, list_strings(config), config, f"{config.task.name} of {config.input_len} bits")


def list_strings(config: DataConfig) -> np.ndarray:
    """Return all strings of `data.input_len` bits with their answers, uint16 (2^n, 20), in the order of the numbers.

    copy and reverse answer with n bits, parity (1 for an odd number of ones) and majority (ties are 0) with one.
    """
    n = config.input_len
    bits = (np.arange(2**n)[:, None] >> np.arange(n)[::-1]) & 1
    answers = _ANSWERS[config.task](bits)
    rows = np.full((2**n, _ROW_LEN), _EOS, dtype=np.uint16)
    rows[:, 0] = _BOS
    rows[:, 1 : n + 1] = bits
    rows[:, n + 1] = _FIRST_TASK + list(FormalTask).index(config.task)
    rows[:, n + 2 : n + 2 + answers.shape[1]] = answers
    return rows


FORMAL = SourceKind(name="formal", keys=SPLIT_KEYS | {"task", "input_len"}, describe=_describe, read=_read)
