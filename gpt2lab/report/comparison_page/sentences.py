"""What the numbers of a sweep say: findings, each with a verdict and the sentences that carry its numbers."""

import math
from collections.abc import Callable, Sequence

from gpt2lab.record.columns import column
from gpt2lab.report import numbers
from gpt2lab.report.analysis import ACCURACY_REACHED, NOTABLE_NATS, Finding
from gpt2lab.report.comparison.grokking import PHASES
from gpt2lab.report.comparison.statistics import Estimate
from gpt2lab.report.comparison.sweep_results import SweepResults, noise_words
from gpt2lab.report.comparison.trajectories import SeedRange
from gpt2lab.report.comparison_page.words import (
    count_verdicts,
    difference_words,
    jobs_line,
    listed,
    mean_std,
    mean_std_of,
    sentence,
    signed,
    signed_percent,
    spread,
    two_digits,
)
from gpt2lab.report.numbers import plural

EVIDENCE = ("comparison", "generalisation")  # topics of what was tested or counted; the others describe means
MOST_ARMS = 12  # told apart in one finding; the table has the others


def find_in_sweep(results: SweepResults) -> list[Finding]:
    """Return what can be said, most telling first."""
    found = [
        differences(results),
        generalisation(results),
        best_arm(results),
        noise(results),
        matched_loss(results),
        gap(results),
        cost(results),
        unfinished(results),
    ]
    return [finding for finding in found if finding is not None]


def differences(results: SweepResults) -> Finding | None:
    """How many arms are better, worse or not distinguishable, and each with its difference."""
    if results.comparison is None:
        return Finding("comparison", "Nothing was compared", sentence(results.no_comparison or "no run finished"))
    base = results.rows[results.baseline]
    arms = [(cell.label, row, row.judgement.verdict) for cell, row in results.arms if row and row.judgement]
    if not arms or base is None:
        return _alone(results)
    name, label = column(results.metric).label, results.cells[results.baseline].label
    told = [
        f"{label}: {difference_words(row) if row.difference else f'{verdict} (no seed in common)'}"
        for label, row, verdict in arms[:MOST_ARMS]
    ]
    more = f"; the table has {len(arms) - MOST_ARMS} more" if len(arms) > MOST_ARMS else ""
    baseline = f"{label} ({numbers.formatter(results.metric)(base.estimate.mean)})"
    text = (
        f"{name} at step {results.comparison.step:,}, differences to {baseline}, paired by seed: "
        f"{'; '.join(told)}{more}. Rule: better or worse when the corrected interval leaves out 0 and "
        "the difference is larger than the noise floor; never with one pair."
    )
    return Finding("comparison", count_verdicts([verdict for _, _, verdict in arms]), text)


def _alone(results: SweepResults) -> Finding:
    """The mean of a lone arm."""
    told = [
        f"{cell.label}: {mean_std_of(results.metric, row.estimate)} over {plural(row.estimate.n, 'seed')}"
        for cell, row in results.arms
        if row is not None
    ]
    verdict = "One arm" if len(results.cells) == 1 else "One arm with finished runs"
    text = f"{column(results.metric).label}, {'; '.join(told)}. No baseline to compare with."
    return Finding("comparison", verdict, text)


def best_arm(results: SweepResults) -> Finding | None:
    """Which arm of several seeds has the best mean, and whether it can be told from the baseline."""
    rows = [(cell.label, row) for cell, row in results.arms if row is not None and row.comparable]
    if len(rows) < 2:
        return None
    higher = bool(column(results.metric).higher_is_better)
    best, other = sorted(rows, key=lambda arm: arm[1].estimate.mean, reverse=higher)[:2]
    extreme = "Highest" if higher else "Lowest"
    name = column(results.metric).label.lower()
    if not _ordered(best[1].estimate, other[1].estimate, numbers.formatter(results.metric)):
        return None
    judged = best[1].judgement
    said = f"Against the baseline it is {judged.verdict}" if judged else "That is the baseline"
    first, second = (
        f"{mean_std_of(results.metric, row.estimate)} over {plural(row.estimate.n, 'seed')}" for _, row in (best, other)
    )
    text = f"{first}, before {other[0]} with {second}. {said}; the order among the other arms is not tested."
    return Finding("best", f"{extreme} mean {name}: {best[0]}", text)


def noise(results: SweepResults) -> Finding | None:
    """The spread of runs that differ only in their seed."""
    if results.comparison is None:
        return None
    floor = results.comparison.floor
    if floor is None:
        text = "No setting has two finished runs, so the spread over seeds is not known and no difference is a finding."
        return Finding("noise", "Noise floor unknown", text)
    text = (
        f"Runs that differ in nothing but their seed spread by {spread(floor.std)} (pooled standard deviation of "
        f"{plural(floor.runs, 'run')} in {plural(floor.groups, 'setting')}, of {noise_words(results.comparison)}); "
        "smaller differences are treated as noise."
    )
    return Finding("noise", f"Noise floor {spread(floor.std)}", text)


def matched_loss(results: SweepResults) -> Finding | None:
    """Whether arms of two pairs or more differ in validation loss where their training loss is the same."""
    matched = results.matched
    if not matched.targets:
        if not matched.reason:
            return None
        return Finding("matched loss", "No training loss in common", sentence(matched.reason))
    told, notable = [], 0
    for cell, points in zip(results.cells, matched.points, strict=True):
        point = points[-1]
        if point is not None and point.difference is not None and point.difference.std is not None:
            difference = point.difference
            told.append(f"{cell.label} {signed(difference.mean)} ± {spread(point.difference.std)} (n = {difference.n})")
            notable += abs(point.difference.mean) >= NOTABLE_NATS
    if not told:
        return None
    verdict = f"At equal training loss, {notable or 'none'} of {plural(len(told), 'arm')} at least {NOTABLE_NATS} nats"
    text = (
        f"Where training loss is first {numbers.loss(matched.targets[-1])}, the lowest that all share, validation loss "
        f"differs from the baseline's by: {listed(told, MOST_ARMS)}. Means over n pairs of equal seed, arms with one "
        "pair left out; not tested."
    )
    return Finding("matched loss", f"{verdict} from the baseline", text)


def gap(results: SweepResults) -> Finding | None:
    """Between which values the distance between the splits ends, and in which arm where several seeds tell."""
    ends = [
        (cell.label, int(seeds.steps[-1]), _last(seeds))
        for cell, seeds in zip(results.cells, results.gaps, strict=True)
        if len(seeds) and seeds.steps[-1]
    ]
    if len(ends) < 2 or results.grokking is not None:
        return None
    ends.sort(key=lambda end: end[2].mean)
    (low_arm, low_step, low), (high_arm, high_step, high) = ends[0], ends[-1]
    heading = f"The gap between the splits ends at {signed(low.mean)} to {signed(high.mean)} nats"
    of = f"means over {_seeds([end[2] for end in ends])}, not tested"
    text = f"Validation minus training loss at the end, {of}"
    if not _ordered(low, high, signed):
        return Finding("gap", heading, f"{text}: no order among the arms.")
    text += f": smallest in {low_arm} ({mean_std(low, signed)} nats at step {low_step:,}) and largest in {high_arm} "
    return Finding("gap", heading, f"{text}({mean_std(high, signed)} nats at step {high_step:,}).")


def _last(seeds: SeedRange) -> Estimate:
    std = float(seeds.std[-1]) if seeds.n > 1 else None
    return Estimate(n=seeds.n, mean=float(seeds.mean[-1]), std=std, interval=None)


def cost(results: SweepResults) -> Finding | None:
    """How long each arm trains to the common loss, its order where several seeds tell one, and its speed."""
    costs = results.costs
    if costs.target is None:
        return None
    heading = f"Training time to loss {numbers.loss(costs.target)}"
    labelled = [(c.label, cost) for c, cost in zip(results.cells, costs.cells, strict=True) if cost is not None]
    timed = sorted(
        ((label, cost.seconds) for label, cost in labelled if cost.seconds is not None), key=lambda arm: arm[1].mean
    )
    if len(timed) < 2:
        return Finding("cost", f"{heading}: not compared", sentence(costs.untimed)) if costs.untimed else None
    told = [f"{label} {mean_std(seconds, numbers.rounded, two_digits)} s" for label, seconds in timed]
    text = f"{listed(told, MOST_ARMS)}; means over {_seeds([seconds for _, seconds in timed])}, not tested."
    if costs.untimed:
        text += f" The others are {costs.untimed}."
    slower = [f"{label} {signed_percent(cost.overhead)}" for label, cost in labelled if cost.overhead is not None]
    if slower:
        text += f" Time per token against the baseline: {listed(slower, MOST_ARMS)}."
    first, second = timed[:2]
    ordered = _ordered(first[1], second[1], numbers.rounded)
    return Finding("cost", f"{heading}: {f'lowest mean {first[0]}' if ordered else 'no order'}", text)


def _ordered(one: Estimate, other: Estimate, show: Callable[[float], str]) -> bool:
    """Whether two means may be named in an order: each of several seeds, and not printed alike."""
    return min(one.n, other.n) > 1 and show(one.mean) != show(other.mean)


def _seeds(estimates: Sequence[Estimate]) -> str:
    fewest, most = min(estimate.n for estimate in estimates), max(estimate.n for estimate in estimates)
    return plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"


def generalisation(results: SweepResults) -> Finding | None:
    """Where runs generalised, how late, and which phases occurred."""
    found = results.grokking
    if found is None:
        return None
    settled, success = (sum(getattr(cell, part) for cell in found.cells) for part in ("settled", "success"))
    if not settled:
        return None
    totals = {phase: sum(cell.phases.get(phase, 0) for cell in found.cells) for phase in PHASES}
    phases = [f"{n} {phase}" for phase, n in totals.items() if n]
    labelled = list(zip((cell.label for cell in results.cells), found.cells, strict=True))
    medians = [(c.val.median, label, c) for label, c in labelled if c.val is not None and c.val.median is not None]
    never = [label for label, cell in labelled if cell.settled and not cell.success]
    text = f"Phases: {listed(phases)}."
    if medians:
        first, last = min(medians, key=lambda median: median[0]), max(medians, key=lambda median: median[0])
        text += f" The median step to validation accuracy {ACCURACY_REACHED:g} is "
        if len(labelled) == 1:
            text += f"{numbers.count(first[0])}."
        else:
            text += f"earliest in {first[1]} ({numbers.count(first[0])})"
            latest = f" and latest, where it was reached, in {last[1]} ({numbers.count(last[0])})"
            text += f"{latest if last != first else ''}."
    if never:
        text += f" In {listed(never, MOST_ARMS)} no run reached it"
        beyond = [cell.val.median_beyond for label, cell in labelled if label in never and cell.val is not None]
        steps = [step for step in beyond if step is not None and math.isfinite(step)]
        text += f" by step {numbers.count(min(steps))}." if steps else "."
    return Finding("generalisation", f"Of {plural(settled, 'run')} that ended, {success:,} generalised", text)


def unfinished(results: SweepResults) -> Finding | None:
    """Which jobs are not in these numbers."""
    if not results.unfinished:
        return None
    names = [f"{member.name} ({member.state.word})" for member in results.unfinished]
    verdict = sentence(jobs_line(results.counts)).removesuffix(".")
    return Finding(
        "jobs", verdict, f"Not in the comparison: {listed(names, MOST_ARMS)}. Each is named with its reason."
    )
