"""What a finished model is evaluated on."""

from dataclasses import dataclass
from typing import Any

from gpt2lab.schema.groups import DataConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTask:
    """One data source as one model is to read it."""

    name: str  # what tables call it
    data: DataConfig
    task_position: Any = None  # counted target positions, as in a run
    seq_len: int | None = None  # T; null: the data's row, else the model's longest
