"""What the runs of a sweep have in common, and the summary.json of a sweep."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpt2lab.record.sweep import Sweep, count_states
from gpt2lab.record.values import common
from gpt2lab.report.comparison.compare import ArmResult
from gpt2lab.report.comparison.grokking import GrokkingCell
from gpt2lab.report.comparison.statistics import Censored
from gpt2lab.report.comparison.sweep_results import SweepResults
from gpt2lab.report.comparison_page.sentences import find_in_sweep
from gpt2lab.report.inputs import Inputs
from gpt2lab.report.summary import summarise_inputs


def shared_inputs(sweep: Sweep, inputs: Sequence[Inputs]) -> Inputs:
    """Return the record that all `inputs` share, as if it were that of one run without rows."""
    provenance = common([each.provenance for each in inputs])
    moments = [_moment(inputs, key) for key in ("started", "ended")]
    return Inputs(
        config=common([each.config for each in inputs]),
        overrides=list(sweep.overrides),
        provenance=provenance | {"run_id": sweep.sweep_id, "command": list(sweep.command)},
        status={"started": min(moments[0], default=None), "ended": max(moments[1], default=None)},
        rows=[],
        notes="",
        samples={},
    )


def _moment(inputs: Sequence[Inputs], key: str) -> list[str]:
    return [str(each.status[key]) for each in inputs if each.status.get(key)]


def summarise_sweep(results: SweepResults, title: str, hypothesis: str | None) -> dict[str, Any]:
    """Return the summary of a sweep: the keys of a run's where all runs agree (else null), and what a sweep adds.

    A run counts here as soon as it has a record, whether it finished or not.
    """
    inputs = [member.run.inputs for member in results.members if member.run is not None]
    runs = [summarise_inputs(each, title) for each in inputs]
    own = {
        "name": title,
        "kind": "sweep",
        "status": "finished" if results.reason is None else "partial",
        "reason": results.reason,
        "date": min(_moment(inputs, "started"), default=results.sweep.created),
        "hypothesis": hypothesis,
        "tags": list(results.sweep.tags),
        "jobs": dict(results.counts),
        "varies": list(results.sweep.varies),
        "metric": results.metric,
        "tokens": _sum([run["tokens"] for run in runs]),
        "training_s": _sum([run["training_s"] for run in runs]),
        "arms": [_arm(results, index) for index in range(len(results.cells))],
        "findings": [asdict(finding) for finding in find_in_sweep(results)],
    }
    keys = summarise_inputs(shared_inputs(results.sweep, []), title)
    return own | {key: _equal([run[key] for run in runs]) for key in keys if key not in own}


def _equal(values: Sequence[Any]) -> Any:
    return values[0] if values and all(value == values[0] for value in values) else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _arm(results: SweepResults, index: int) -> dict[str, Any]:
    cell, row = results.cells[index], results.rows[index]
    arm: dict[str, Any] = {
        "label": cell.label,
        "values": dict(cell.values),
        "density": dict(cell.density),
        "baseline": index == results.baseline,
        "jobs": count_states(member.state.word for member in cell.members),
        **(asdict(row.estimate) if row else {"n": 0, "mean": None, "std": None, "interval": None}),
        "by_seed": {str(seed): value for seed, value in row.by_seed.items()} if row else {},
        "difference": _difference(row),
        "verdict": row.judgement.verdict if row and row.judgement else None,
        "rule": row.judgement.rule if row and row.judgement else None,
    }
    if results.grokking is not None:
        arm["grokking"] = _grokking(results.grokking.cells[index])
    return arm


def _difference(row: ArmResult | None) -> dict[str, Any] | None:
    if row is None or row.difference is None:
        return None
    return {
        "pairs": row.difference.n,
        "mean": row.difference.mean,
        "std": row.difference.std,
        "p": row.difference.p,
        "corrected_p": row.corrected_p,
        "corrected_interval": row.corrected_interval,
    }


def _grokking(cell: GrokkingCell) -> dict[str, Any]:
    def censored(value: Censored | None) -> dict[str, Any] | None:
        if value is None:
            return None
        bound = value.median_beyond
        beyond = bound if bound is not None and math.isfinite(bound) else None  # null beside a null median: never
        return {"median": value.median, "beyond": beyond, "reached": value.reached, "n": value.n}

    return {
        "settled": cell.settled,
        "success": cell.success,
        "steps_to_train_accuracy": censored(cell.train),
        "steps_to_val_accuracy": censored(cell.val),
        "delay": censored(cell.delay),
        "phases": dict(cell.phases),
    }
