"""evaluation.json: what several models gave on several tasks, as plain values, with what may be said of it."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gpt2lab.report import numbers
from gpt2lab.report.analysis import NOTABLE_NATS
from gpt2lab.report.evaluation.matrix import FORMULAS, Chain, average, measure_chain
from gpt2lab.report.summary import perplexity

VERSION = 1
NOTABLE_SHARE = 0.005  # half a percentage point; smaller changes of an accuracy are treated as noise
MEASURES = tuple(FORMULAS)
SEEDS = "Each row is one model, so nothing here says how much another seed would differ."


def record_evaluation(
    *,
    models: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    before: str | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return the content of evaluation.json.

    models: in the order of their phases, each with name, sha256 (of its checkpoint, None for none), starts_from (the
    sha256 it was started from) and data_files (hashes of the data it was trained on, None where not known). tasks:
    each with name, counted_positions, row_len and data_files. measured: model, task, loss, accuracy, tokens, n_bytes.
    before: the name of the model from before the first phase, which is not a phase itself. facts: copied unchanged.
    """
    every = {task["name"]: task["counted_positions"] is None for task in tasks}
    cells = {(row["model"], row["task"]): row for row in measured}
    phases = [model for model in models if model["name"] != before]
    matrices = {
        measure: np.array([[cells[m["name"], t["name"]][measure] for t in tasks] for m in phases])
        for measure in MEASURES
    }
    base = {k: None if before is None else np.array([cells[before, t["name"]][k] for t in tasks]) for k in MEASURES}
    is_chain = len(phases) == len(tasks) > 1
    chains = {k: measure_chain(matrices[k], k, base[k]) for k in MEASURES} if is_chain else None
    doubts = _doubts(phases, tasks) if is_chain else []
    return {
        "kind": "evaluation",
        "version": VERSION,
        **facts,
        "models": [dict(model) for model in models],
        "before": before,
        "tasks": [dict(task) for task in tasks],
        "measurements": [describe_measurement(row, every_position=every[row["task"]]) for row in measured],
        "matrices": {measure: matrix.tolist() for measure, matrix in matrices.items()},
        "chain": {k: _plain_chain(chain) for k, chain in chains.items()} if chains else None,
        # What the record does not show to be a chain is spoken of as models that are compared.
        "findings": _chain_findings(phases, tasks, chains, matrices)
        if chains and not doubts
        else _findings(phases, tasks, matrices),
        "notes": [*doubts, SEEDS] if len(phases) > 1 else [],
    }


def describe_measurement(row: Mapping[str, Any], *, every_position: bool) -> dict[str, Any]:
    """Return one model on one data source; bits per byte need n_bytes, the UTF-8 bytes of the counted tokens."""
    loss, tokens, n_bytes = row["loss"], row["tokens"], row["n_bytes"]
    per_byte = loss * tokens / n_bytes / math.log(2) if n_bytes and every_position else None
    measured = {"perplexity": perplexity(loss), "bits_per_byte": per_byte, "accuracy": row["accuracy"]}
    return {"model": row["model"], "task": row["task"], "loss": loss, **measured, "tokens": tokens}


def _plain_chain(chain: Chain) -> dict[str, Any]:
    """Return arrays as lists with null for what is not finite."""

    def plain(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    columns = {name: [plain(value) for value in values] for name, values in chain.items()}
    return {**columns, "averages": {name: plain(value) for name, value in average(chain).items()}}


def _doubts(phases: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the record does not show: that a phase began at the one before, and was on the data of its task."""
    doubts = []
    for earlier, model in pairwise(phases):
        if model["starts_from"] is None or model["starts_from"] != earlier["sha256"]:
            doubts.append(
                f"{model['name']} has no record of a start from {earlier['name']}: between these two, retention, "
                "forgetting and transfer compare models and say nothing of what training did."
            )
    for model, task in zip(phases, tasks, strict=True):
        if not model["data_files"] or not set(task["data_files"].values()) <= set(model["data_files"].values()):
            doubts.append(
                f"{model['name']} has no record of training on the data of {task['name']}: its place on the "
                "diagonal is not the value right after a phase on that task."
            )
    return doubts


def _chain_findings(
    phases: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    chains: Mapping[str, Chain],
    matrices: Mapping[str, np.ndarray],
) -> list[dict[str, str]]:
    """Return a sentence for each task but the last, by accuracy where it is about answers, and one of averages."""
    names = [phase["name"] for phase in phases]
    findings = []
    for j, task in enumerate(tasks[:-1]):
        measure = _measure_of(task)
        findings.append(_forgetting(j, task["name"], names, measure, chains[measure], matrices[measure]))
    measure = _measure_of(tasks[0])
    averages, show = average(chains[measure]), numbers.measure_formatter(measure)
    parts = [f"{measure} at the end {show(averages['final'])}{_UNIT[measure]}"]
    parts += [f"{title} {_signed(averages[key], show)}" for key, title in _AVERAGED if not np.isnan(averages[key])]
    text = f"Over {len(tasks)} tasks: {', '.join(parts)}. Forgetting above 0 is a loss, transfer above 0 a gain."
    return [*findings, {"topic": "averages", "verdict": "On average", "text": text}]


def _forgetting(j: int, task: str, names: list[str], measure: str, chain: Chain, matrix: np.ndarray) -> dict[str, str]:
    """Return the status of task j: its value right after its phase, at the end, and the best one on the way."""
    show, unit = numbers.measure_formatter(measure), _UNIT[measure]
    earlier = matrix[:-1, j]
    best = int(earlier.argmin() if measure == "loss" else earlier.argmax())
    lost, left = float(chain["forgetting"][j]), ""
    notable = NOTABLE_NATS if measure == "loss" else NOTABLE_SHARE
    verdict = "kept" if abs(lost) <= notable else "forgotten" if lost > 0 else "better than ever"
    if 0 <= chain["retention"][j] < np.inf:
        what = "the probability per counted token" if measure == "loss" else "that accuracy"
        left = f"; {numbers.rounded(100 * chain['retention'][j])} % of {what} is left"
    return {
        "topic": "forgetting",
        "verdict": f"{task}: {verdict}",
        "text": f"Right after its own phase ({names[j]}) the {measure} on {task} is "
        f"{show(chain['diagonal'][j])}{unit}, at the end ({names[-1]}) {show(chain['final'][j])}{left}. "
        f"Against the best earlier value, {show(earlier[best])} of {names[best]}, forgetting is "
        f"{_signed(lost, show)}.",
    }


_UNIT = {"loss": " nats per token", "accuracy": ""}
_AVERAGED = (
    ("forgetting", "forgetting of all but the last"),
    ("backward", "backward transfer to these"),
    ("forward", "forward transfer to all but the first"),
)


def _measure_of(task: Mapping[str, Any]) -> str:
    return "accuracy" if task["counted_positions"] is not None or task["row_len"] is not None else "loss"


def _signed(value: float, show: Any) -> str:
    text = show(abs(value))
    return text if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def _findings(
    phases: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]], matrices: Mapping[str, np.ndarray]
) -> list[dict[str, str]]:
    """Return which model has the lowest loss on each task; of one model, its losses in order."""
    losses, findings = matrices["loss"], []
    if len(phases) == len(tasks) == 1:
        return []
    if len(phases) == 1:
        order = losses[0].argsort(kind="stable")
        parts = [f"{tasks[j]['name']} {numbers.loss(losses[0, j])}" for j in order]
        text = f"Nats per counted token of {phases[0]['name']}, lowest first: {', '.join(parts)}."
        return [{"topic": "domains", "verdict": f"Lowest loss on {tasks[order[0]]['name']}", "text": text}]
    for j, task in enumerate(tasks):
        order = losses[:, j].argsort(kind="stable")
        first, second = (int(i) for i in order[:2])
        gap = float(losses[second, j] - losses[first, j])
        name = phases[first]["name"]
        verdict = f"{task['name']}: {name} lowest" if gap > NOTABLE_NATS else f"{task['name']}: no clear lowest"
        text = (
            f"{name} has {numbers.loss(losses[first, j])} nats per counted token, {phases[second]['name']} "
            f"{numbers.loss(losses[second, j])}, a gap of {numbers.loss(gap)}."
        )
        findings.append({"topic": "tasks", "verdict": verdict, "text": text})
    return findings
