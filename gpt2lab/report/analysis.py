"""Sentences about one run, computed from its curves. Each carries its numbers and the rule that chose its words.

Every function takes curves and plain numbers and returns a Finding, or None where there is nothing to say.
"""

import math
from dataclasses import dataclass

import numpy as np

from gpt2lab.report import numbers
from gpt2lab.report.comparison import trajectories
from gpt2lab.report.inputs import Curve

ACCURACY_REACHED = 0.99
NOTABLE_NATS = 0.005  # half a percent in perplexity; smaller changes of a loss are treated as noise
UNCLEAR_NATS = 0.05  # an interval wider than this either way says nothing about convergence
MIN_POINTS = 5  # a line through fewer has no spread worth quoting
SPIKE_WINDOW = 10  # logged rows before the one looked at
SPIKE_SPREADS = 6.0
SPIKE_NATS = 0.1
DELAY_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the numbers say: a short `verdict`, and the sentences that carry numbers and rule."""

    topic: str
    verdict: str
    text: str


def fit_line(steps: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the least-squares slope of values (N,) over steps (N,), and its standard error, both per step."""
    x = steps - steps.mean()
    slope = float(x @ values / (x @ x))
    residuals = values - values.mean() - slope * x
    return slope, math.sqrt(float(residuals @ residuals) / (len(x) - 2) / float(x @ x))


def convergence(val: Curve, lr: Curve | None = None) -> Finding | None:
    """Whether validation loss still moves at the end: a line through the last third, or the last five evaluations."""
    from scipy.special import stdtrit  # Student's t; a list of the archive starts without it

    trained = val.since(1)
    if not len(trained):
        return None
    tail = trained.since(math.ceil(2 * trained.last[0] / 3))
    if len(tail) < MIN_POINTS:
        tail = Curve(trained.steps[-MIN_POINTS:], trained.values[-MIN_POINTS:])
    if len(tail) < MIN_POINTS:
        text = f"{numbers.plural(len(tail), 'evaluation')} after training began; "
        text += f"the trend at the end is only judged from {MIN_POINTS}."
        return Finding("convergence", "Convergence unknown", text)
    first, last = int(tail.steps[0]), int(tail.steps[-1])
    slope, error = fit_line(tail.steps.astype(np.float64), tail.values)
    change = slope * (last - first)
    margin = float(stdtrit(len(tail) - 2, 0.975)) * error * (last - first)
    small = abs(change) < NOTABLE_NATS
    if change + margin < 0 and not small:
        verdict = "Still falling"
    elif change - margin > 0 and not small:
        verdict = "Rising at the end"
    elif margin > UNCLEAR_NATS:
        verdict = "Too noisy to call converged"
    else:
        verdict = "Level at the end"
    text = (
        f"A line through the {len(tail)} validation losses of steps {first:,} to {last:,} changes by {change:+.4f} ± "
        f"{margin:.4f} nats (95 % interval of the fit). Rule: a change when the interval excludes zero and it is at "
        f"least {NOTABLE_NATS} nats; level only if the interval is no wider than ± {UNCLEAR_NATS} nats."
    )
    before, after = (lr.at(first), lr.at(last)) if lr is not None else (None, None)
    if before and after is not None and after < before / 2:
        text += (
            f" The learning rate fell from {numbers.rounded(before)} to {numbers.rounded(after)} over those steps, "
            "which shapes the end of any curve: this speaks for the schedule, not for longer training."
        )
    return Finding("convergence", verdict, text)


def best_earlier(val: Curve) -> Finding | None:
    """Whether the best validation loss lies before the last one."""
    if len(val) < 2:
        return None
    (best_step, best), (last_step, last) = val.best(), val.last
    if last - best < NOTABLE_NATS:
        return None
    return Finding(
        "overfitting",
        "Best before the end",
        f"Validation loss was lowest at step {best_step:,} ({numbers.loss(best)} nats) and ended "
        f"{numbers.loss(last - best)} nats higher at step {last_step:,} (rule: a rise of {NOTABLE_NATS} nats or more).",
    )


def gap(train: Curve, val: Curve) -> Finding | None:
    """Distance between the splits at the last step at which both were evaluated."""
    apart = trajectories.gap(train, val)
    if not len(apart.since(1)):
        return None
    step, distance = apart.last
    if abs(distance) < NOTABLE_NATS:
        verdict = "No gap between the splits"
    else:
        verdict = "Validation above training" if distance > 0 else "Validation below training"
    text = (
        f"At step {step:,} validation loss is {numbers.loss(val.at(step))} and training loss "
        f"{numbers.loss(train.at(step))} nats, measured the same way: a gap of {'-' if distance < 0 else ''}"
        f"{numbers.loss(abs(distance))} nats (gaps within {NOTABLE_NATS} nats are ignored)."
    )
    if distance <= -NOTABLE_NATS:
        text += " The splits differ in difficulty by more than any overfitting shows, so this gap does not measure it."
    return Finding("gap", verdict, text)


def reached(accuracy: Curve) -> int | None:
    """Return the first step at which an accuracy was at least ACCURACY_REACHED, or None."""
    steps = accuracy.steps[accuracy.values >= ACCURACY_REACHED]
    return int(steps[0]) if len(steps) else None


def generalisation(train: Curve, val: Curve) -> Finding | None:
    """Memorised, generalised at once, or delayed: from the first steps with an accuracy of ACCURACY_REACHED."""
    if not len(val):
        return None
    threshold, trained, generalised = ACCURACY_REACHED, reached(train), reached(val)
    last_step, last = val.last
    spacing = f"an accuracy counts as reached at the first evaluation of {threshold} or more"
    if not len(train):
        verdict = "Not reached" if generalised is None else "Generalised"
        where = f"not by step {last_step:,}" if generalised is None else f"at step {generalised:,}"
        text = f"Validation accuracy reached {threshold}: {where}. Training accuracy was not measured."
    elif trained is None and generalised is None:
        verdict = "Neither memorised nor generalised"
        text = (
            f"By step {last_step:,} neither accuracy reached {threshold}: training {numbers.share(train.last[1])}, "
            f"validation {numbers.share(last)}."
        )
    elif generalised is None:
        verdict = "Memorised, not generalised"
        text = (
            f"Training accuracy reached {threshold} at step {trained:,}; validation accuracy did not by step "
            f"{last_step:,}, where it is {numbers.share(last)} ({spacing})."
        )
    elif trained is None or trained >= generalised:
        verdict = "Generalised at once"
        also = f"training accuracy at step {trained:,}" if trained is not None else "training accuracy did not"
        text = f"Validation accuracy reached {threshold} at step {generalised:,}, {also} ({spacing})."
    else:
        late = generalised >= DELAY_FACTOR * trained
        verdict = "Delayed generalisation" if late else "Generalised soon after memorising"
        then = val.at(trained)
        meanwhile = "" if then is None else f", when validation accuracy was {numbers.share(then)}"
        text = (
            f"Training accuracy reached {threshold} at step {trained:,}{meanwhile}; validation accuracy reached it at "
            f"step {generalised:,}, {generalised - trained:,} steps later and {generalised / trained:.1f} times as far "
            f"into training ({spacing}; delayed means {DELAY_FACTOR:g} times as many steps, or more)."
        )
    if generalised is not None and last < threshold:
        text += f" It did not stay there: {numbers.share(last)} at step {last_step:,}."
    return Finding("generalisation", verdict, text)


def find_spikes(loss: Curve) -> list[tuple[int, float, float]]:
    """Return (step, value, median before) of each spike: its highest row, where neighbouring rows belong to one."""
    if len(loss) <= SPIKE_WINDOW:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(loss.values, SPIKE_WINDOW)[:-1]
    medians = np.median(windows, axis=1)
    spreads = 1.4826 * np.median(np.abs(windows - medians[:, None]), axis=1)  # the deviation of a normal, robustly
    above = loss.values[SPIKE_WINDOW:] - medians > np.maximum(SPIKE_SPREADS * spreads, SPIKE_NATS)
    spikes: list[tuple[int, float, float]] = []
    previous = None
    for at in np.flatnonzero(above):
        spike = (int(loss.steps[at + SPIKE_WINDOW]), float(loss.values[at + SPIKE_WINDOW]), float(medians[at]))
        if previous is not None and at == previous + 1:
            spikes[-1] = max(spikes[-1], (*spike[:2], spikes[-1][2]), key=lambda spike: spike[1])
        else:
            spikes.append(spike)
        previous = at
    return spikes


def spikes(loss: Curve) -> Finding | None:
    """Sudden rises of the logged training loss."""
    if len(loss) <= SPIKE_WINDOW:
        return None
    rule = (
        f"rule: above the median of the {SPIKE_WINDOW} rows before it by {SPIKE_SPREADS:g} robust standard deviations "
        f"and by {SPIKE_NATS} nats"
    )
    found = find_spikes(loss)
    if not found:
        return Finding("spikes", "No loss spikes", f"Of {len(loss):,} logged training losses none is one ({rule}).")
    step, value, median = max(found, key=lambda spike: spike[1] - spike[2])
    verdict = "1 loss spike" if len(found) == 1 else f"{len(found)} loss spikes"
    text = (
        f"{'At' if len(found) == 1 else 'The largest at'} step {step:,}: training loss {numbers.loss(value)} nats "
        f"after a median of {numbers.loss(median)} ({rule})."
    )
    return Finding("spikes", verdict, text)


def clipping(grad_norm: Curve, grad_clip: float | None) -> Finding | None:
    """How often the gradient was longer than the clipping threshold."""
    norms = grad_norm.since(1)
    if not grad_clip or not len(norms):
        return None
    clipped = int((norms.values > grad_clip).sum())
    if not clipped:
        return None
    step, largest = norms.best(largest=True)
    text = (
        f"The norm was above {numbers.setting(grad_clip)} at {clipped:,} of {len(norms):,} logged updates; the largest "
        f"was {numbers.rounded(largest)} at step {step:,}."
    )
    return Finding("clipping", "Gradient clipped", text)


def against_references(
    val: Curve, *, unigram: float | None, reachable: float | None, random_guess: float | None
) -> Finding | None:
    """The last validation loss beside what needs no model (nats). Give only references of the counted positions."""
    if not len(val.since(1)):
        return None
    step, last = val.last
    baseline = random_guess if unigram is None else unigram
    name, plain = "a uniform guess over the vocabulary", "a uniform guess"
    if unigram is not None:
        name, plain = "the unigram entropy of the split", "token frequencies"

    def compared(name: str, value: float, side: str) -> str:
        return f"{numbers.loss(abs(last - value))} nats {side} {name} ({numbers.loss(value)})"

    comparisons = []
    if baseline is not None:
        comparisons.append(compared(name, baseline, "below" if last <= baseline else "above"))
    if reachable is not None:
        comparisons.append(compared("the best reachable loss", reachable, "below" if last < reachable else "above"))
    if not comparisons:
        return None
    text = f"Validation loss {numbers.loss(last)} nats at step {step:,} is {' and '.join(comparisons)}."
    if reachable is not None and last < reachable - NOTABLE_NATS:
        text += " A loss below what the data allows points to a leak between the splits or to a wrong measure."
        return Finding("references", "Better than possible", text)
    if baseline is None:
        return Finding("references", "Distance to the best reachable", text)
    verdict = f"{'Better' if last <= baseline - NOTABLE_NATS else 'Not better'} than {plain}"
    return Finding("references", verdict, text)


def progress(loss: Curve, not_finite: list[int], steps: int | None) -> Finding | None:
    """Whether training happened at all, and stayed finite. `not_finite` holds steps whose losses are not numbers."""
    if not steps:
        return Finding("progress", "Nothing was trained", "The record holds no update.")
    if not not_finite:
        return None
    last = f"; the last finite training loss is {numbers.loss(loss.last[1])} nats at step {loss.last[0]:,}"
    text = (
        f"A loss or gradient norm was not finite at step {not_finite[0]:,}{last if len(loss) else ''}. "
        "Tables and figures show finite values only."
    )
    return Finding("progress", "Diverged", text)


def one_seed(seed: int | None) -> Finding:
    """What a single run cannot say."""
    which = "" if seed is None else f" (seed {seed})"
    text = (
        f"n = 1{which}: these numbers hold no spread over seeds. A difference to another run is not a finding until "
        "both sides have several seeds."
    )
    return Finding("seeds", "One run", text)
