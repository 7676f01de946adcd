"""What a chain of models keeps and loses: measures of a matrix of evaluations, and the row of a domain table.

A matrix R (P, K) is float64: R[i, j] is model i, the one after phase i, on task j; NaN = not measured. It holds mean
losses in nats (lower is better) or accuracies (higher is better). Where P = K = n, task i is what phase i trained on.
Every difference is signed alike for both: forgetting above 0 is a loss of skill, transfer above 0 is a gain.
Whatever needs a value that was not measured is NaN.
"""

import numpy as np

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


CHAIN_TITLES = {
    "diagonal": "right after its phase",
    "final": "at the end",
    "retention": "retention",
    "forgetting": "forgetting",
    "backward": "backward",
    "forward": "forward",
}
# Nothing comes after the last phase that could help or harm its task, and nothing before the first.
_DEFINED = dict.fromkeys(CHAIN_TITLES, slice(None)) | dict.fromkeys(("retention", "forgetting", "backward"), slice(-1))
_DEFINED["forward"] = slice(1, None)

Chain = dict[str, np.ndarray]  # by the keys of CHAIN_TITLES: (n,) by task, NaN where undefined or not measured


def measure_chain(matrix: np.ndarray, measure: str, before: np.ndarray | None = None) -> Chain:
    """Return what n phases in order did to the n tasks, n at least 2; `measure` is loss or accuracy.

    matrix: R (n, n). before: (n,) the same tasks before the first phase; without it there is no forward transfer.
    Retention of an accuracy is NaN where R[j, j] = 0; that of a loss is the ratio of the geometric means of the
    probability given to the counted tokens. Forgetting is that of Chaudhry et al. (2018, "Riemannian Walk for
    Incremental Learning"), the transfers those of Lopez-Paz & Ranzato (2017, "Gradient Episodic Memory").
    """
    assert matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] >= 2, f"{matrix.shape} is no chain of phases"
    sign = -1.0 if measure == "loss" else 1.0
    own, final, gains = np.diagonal(matrix), matrix[-1], sign * matrix
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # hundreds of nats better: no ratio
        retention = np.exp(own - final) if measure == "loss" else np.where(own != 0, final / own, np.nan)
    forward = np.full(len(matrix), np.nan)
    if before is not None:
        forward[1:] = sign * (np.diagonal(matrix, 1) - before[1:])
    chain = {
        "diagonal": own,
        "final": final,
        "retention": retention,
        "forgetting": gains[:-1].max(axis=0) - gains[-1],
        "backward": sign * (final - own),
        "forward": forward,
    }
    defined = {name: np.full(len(matrix), np.nan) for name in chain}
    for name, values in chain.items():
        defined[name][_DEFINED[name]] = values[_DEFINED[name]]
    return defined


def average(chain: Chain) -> dict[str, float]:
    """Return the mean of each measure over the tasks that it is defined for; NaN when one was not measured."""
    return {name: float(values[_DEFINED[name]].mean()) for name, values in chain.items()}
