"""Loss and accuracy of an engine on a split, over a fixed set of batches."""

import numpy as np

from gpt2lab.data import eval_batches
from gpt2lab.engine import Evaluation
from gpt2lab.errors import DataError
from gpt2lab.schema import TrainConfig
from gpt2lab.train.setup import Parts


def evaluated_splits(train: TrainConfig, *, final: bool = False) -> tuple[str, ...]:
    """Return the splits that an evaluation is over; the `final` one, which ends a run, adds the test split."""
    return ("val", *(("train",) if train.eval_train else ()), *(("test",) if final else ()))


def evaluate(parts: Parts, split: str) -> Evaluation:
    """Evaluate on `train.eval_batches` batches of a split (all of it for null), always the same ones.

    Passes are of the run's micro-batch (or batch) size; the sums depend on it only through rounding.
    """
    train = parts.config.train
    batches = eval_batches(
        parts.source.splits[split],
        seq_len=parts.batches.seq_len,
        batch_size=parts.batches.batch_size,
        row_len=parts.source.row_len,
        count=train.eval_batches,
    )
    total = Evaluation()
    for inputs, targets in batches:
        check_ids(parts.source.name, parts.spec.model.vocab_size, inputs, targets)
        total += parts.engine.evaluate(inputs, targets)
    return total


def check_ids(source: str, vocab_size: int, inputs: np.ndarray, targets: np.ndarray) -> None:
    """Raise DataError when a batch of `source` holds a token outside a vocabulary."""
    largest = max(int(inputs.max()), int(targets.max()))
    if largest >= vocab_size:
        raise DataError(
            f"data.source={source}: token {largest} is outside the model's vocabulary of {vocab_size}: "
            f"set model.vocab_size={largest + 1} or above, or use the right tokenizer"
        )
