"""What a data source states about itself, and what a new one has to provide."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gpt2lab.data.batches import Split
from gpt2lab.data.download import Progress
from gpt2lab.data.tokenizers import Tokenizer
from gpt2lab.schema import DataConfig


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Tokens to train and evaluate on, and all that is known about them.

    The last three fields are empty until the source is read; the others are known from the configuration alone.
    """

    name: str  # as in data.source
    tokenizer: Tokenizer
    vocab_size: int  # V
    own_symbols: bool = False  # tokens are symbols of this source; a model keeps its tokenizer on other sources only
    is_synthetic: bool = False  # computed from the configuration; reading it needs no file and no network
    row_len: int | None = None  # T when the tokens are rows of T; None for a stream
    answer_span: tuple[int, int] | None = None  # first and last target position of the answer, inclusive
    answer_choices: int | None = None  # tokens that an answer can be, at each of its positions
    best_loss: np.ndarray | None = None  # (T,) lowest expected loss per target position, nats; None = unknown
    prompt: str = "\n"  # what samples begin with unless sample.prompt says otherwise
    splits: dict[str, Split] = field(default_factory=dict)  # train, val, and test where there is one
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of each file or corpus, by name
    detail: dict[str, object] = field(default_factory=dict)  # what a report should say, plain values

    def __post_init__(self) -> None:
        if self.answer_span is not None:
            assert self.row_len is not None, f"data source {self.name}: an answer_span needs rows: state row_len"
            first, last = self.answer_span
            assert 0 <= first <= last < self.row_len - 1, (
                f"data source {self.name}: answer_span={self.answer_span}, expected targets between 0 and "
                f"{self.row_len - 2} (target t is token t + 1 of its row of {self.row_len})"
            )
        if self.row_len is not None and self.best_loss is not None:
            assert self.best_loss.shape == (self.row_len,), (
                f"data source {self.name}: best_loss has shape {self.best_loss.shape}, expected ({self.row_len},), "
                "one entry per target"
            )


Read = Callable[[Source, DataConfig, Progress | None], Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """One value of `data.source`."""

    name: str
    keys: frozenset[str]  # keys of DataConfig that it uses, besides source and order
    describe: Callable[[DataConfig, int | None], Source]  # reads nothing; the int is model.vocab_size
    read: Read  # adds splits, files and detail to a description
