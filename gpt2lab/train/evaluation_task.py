"""What data a model is evaluated on, given how it was trained and what the command line names."""

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

from gpt2lab.data import describe_source, tokenizer_of_size
from gpt2lab.schema import DataConfig, RunConfig, TokenizerName


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTask:
    """One data source as one model reads it."""

    name: str  # label in tables
    data: DataConfig
    task_position: Any = None  # counted target positions, as in a run
    seq_len: int | None = None  # T; None: the data's row, else the model's longest


def make_task(
    name: str, composed: RunConfig, keys: Set[str], trained: RunConfig | None, vocab_size: int
) -> EvaluationTask:
    """Return the task `name` of one model.

    composed: the config with the overrides of the task; keys: those that the overrides set. trained: the config of the
    model's run, whose settings hold for all other keys; None for a bare checkpoint, whose tokenizer follows from
    `vocab_size`. A source other than that of the run starts from its own settings, except that the model keeps its
    tokenizer, and its sequence length where the source has no rows. Raises ConfigError.
    """
    position = composed.task_position
    if trained is None:
        tokenizer = tokenizer_of_size(vocab_size) or TokenizerName.bytes
        data, seq_len = _with_tokenizer(composed.data, tokenizer, keys, vocab_size), None
    else:
        if not keys & {"masking", "task_position"}:
            position = trained.task_position
        seq_len = trained.train.seq_len
        if composed.data.source != trained.data.source:
            data = _with_tokenizer(composed.data, trained.data.tokenizer, keys, vocab_size)
            if describe_source(data, vocab_size=vocab_size).row_len is not None:
                seq_len = None
        else:
            names = [key.removeprefix("data.") for key in sorted(keys) if key.startswith("data.")]
            data = replace(trained.data, **{key: getattr(composed.data, key) for key in names})
    if "train.seq_len" in keys:
        seq_len = composed.train.seq_len
    return EvaluationTask(name=name, data=data, task_position=position, seq_len=seq_len)


def _with_tokenizer(data: DataConfig, tokenizer: TokenizerName, keys: Set[str], vocab_size: int) -> DataConfig:
    if "data.tokenizer" in keys or describe_source(data, vocab_size=vocab_size).own_symbols:
        return data
    return replace(data, tokenizer=tokenizer)
