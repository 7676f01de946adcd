"""What a chain of models keeps and loses: measures of a matrix of evaluations, and the row of a domain table.

A matrix R (P, K) is float64: R[i, j] is model i, the one after phase i, on task j; NaN = not measured. It holds mean
losses in nats (lower is better) or accuracies (higher is better). Where P = K = n, task i is what phase i trained on.
Every difference is signed alike for both: forgetting above 0 is a loss of skill, transfer above 0 is a gain.
Whatever needs a value that was not measured is NaN.
"""

import math
from dataclasses import dataclass

import numpy as np

from gpt2lab.report.summary import perplexity

FORMULAS = {
    "loss": {
        "retention": "exp(loss right after its phase − loss at the end): the share of the probability per counted "
        "token (geometric mean) that is left",
        "forgetting": "loss at the end − lowest loss after an earlier phase",
        "backward": "loss right after its phase − loss at the end",
        "forward": "loss before the first phase − loss after the phase before its own",
    },
    "accuracy": {
        "retention": "accuracy at the end / accuracy right after its phase",
        "forgetting": "highest accuracy after an earlier phase − accuracy at the end",
        "backward": "accuracy at the end − accuracy right after its phase",
        "forward": "accuracy after the phase before its own − accuracy before the first phase",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What n phases in order did to the n tasks; arrays (n,) by task, NaN where undefined or not measured."""

    diagonal: np.ndarray  # right after its own phase
    final: np.ndarray  # at the end
    retention: np.ndarray  # last task excluded, as in all that follow but forward
    forgetting: np.ndarray
    backward: np.ndarray
    forward: np.ndarray  # first task excluded

    def averages(self) -> dict[str, float]:
        """Return the mean of each measure over the tasks that it is defined for; NaN when one was not measured."""
        excluded = {"retention": slice(None, -1), "forgetting": slice(None, -1), "backward": slice(None, -1)}
        excluded["forward"] = slice(1, None)
        names = ("diagonal", "final", *excluded)
        return {name: float(np.mean(getattr(self, name)[excluded.get(name, slice(None))])) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One model on one data source."""

    loss: float  # mean nats per counted token
    perplexity: float | None  # exp(loss); None beyond what a float holds
    bits_per_byte: float | None  # None unless the bytes are known and every position is counted
    accuracy: float  # share of counted tokens predicted right
    tokens: int  # counted


def measure_chain(matrix: np.ndarray, measure: str, before: np.ndarray | None = None) -> Chain:
    """Return the measures of a square matrix (n, n), n at least 2; `measure` is loss or accuracy.

    before: (n,) the same tasks before the first phase; without it there is no forward transfer.
    """
    return Chain(
        diagonal=diagonal(matrix),
        final=matrix[-1].copy(),
        retention=retention(matrix, measure),
        forgetting=forgetting(matrix, measure),
        backward=backward_transfer(matrix, measure),
        forward=forward_transfer(matrix, np.full(len(matrix), np.nan) if before is None else before, measure),
    )


def diagonal(matrix: np.ndarray) -> np.ndarray:
    """Return R[j, j] (n,): each task right after its own phase."""
    _check_square(matrix)
    return np.diagonal(matrix).copy()


def retention(matrix: np.ndarray, measure: str) -> np.ndarray:
    """Return how much of the value right after its phase is left of each task at the end, (n,); 1 = all of it.

    Accuracy: R[n-1, j] / R[j, j], NaN where R[j, j] = 0. Loss: exp(R[j, j] - R[n-1, j]), the ratio of the geometric
    means of the probability that was given to the counted tokens. Above 1, later phases helped.
    """
    own, final = diagonal(matrix), matrix[-1]
    if measure == "loss":
        with np.errstate(over="ignore"):  # a model that got better by hundreds of nats has no ratio
            return _without_last(np.exp(own - final))
    return _without_last(np.divide(final, own, out=np.full_like(own, np.nan), where=own != 0))


def forgetting(matrix: np.ndarray, measure: str) -> np.ndarray:
    """Return f_j (n,), the best value after an earlier phase against the value at the end; above 0 = forgotten.

    Accuracy: max over l < n-1 of R[l, j] - R[n-1, j] (Chaudhry et al., 2018, "Riemannian Walk for
    Incremental Learning"). Loss: R[n-1, j] - min over l < n-1 of R[l, j]. Below 0, the end is the best.
    """
    _check_square(matrix)
    gains = matrix * _sign(measure)
    return _without_last(gains[:-1].max(axis=0) - gains[-1])


def backward_transfer(matrix: np.ndarray, measure: str) -> np.ndarray:
    """Return what later phases did to each task, (n,); above 0 = a gain.

    Accuracy: R[n-1, j] - R[j, j] (Lopez-Paz & Ranzato, 2017, "Gradient Episodic Memory", BWT); loss: its
    negative.
    """
    return _without_last(_sign(measure) * (matrix[-1] - diagonal(matrix)))


def forward_transfer(matrix: np.ndarray, before: np.ndarray, measure: str) -> np.ndarray:
    """Return what earlier phases did to each task before its own, (n,); above 0 = a gain.

    Accuracy: R[j-1, j] - b[j] (Lopez-Paz & Ranzato, 2017, FWT); loss: its negative. before: b (n,), the tasks
    before the first phase.
    """
    _check_square(matrix)
    found = np.full(len(matrix), np.nan)
    found[1:] = _sign(measure) * (np.diagonal(matrix, 1) - before[1:])
    return found


def domain(
    *, loss: float, accuracy: float, tokens: int, n_bytes: int | None = None, every_position: bool = True
) -> Domain:
    """Return the row of a domain table. n_bytes: UTF-8 bytes of the `tokens` counted tokens, None where unknown."""
    bits = loss * tokens / n_bytes / math.log(2) if n_bytes and every_position else None
    return Domain(loss=loss, perplexity=perplexity(loss), bits_per_byte=bits, accuracy=accuracy, tokens=tokens)


def _sign(measure: str) -> float:
    assert measure in FORMULAS, measure
    return -1.0 if measure == "loss" else 1.0


def _without_last(values: np.ndarray) -> np.ndarray:
    """The last phase has nothing after it that could help or harm."""
    return np.append(values[:-1], np.nan)


def _check_square(matrix: np.ndarray) -> None:
    assert matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] >= 2, f"{matrix.shape} is no chain of phases"
