"""Small wordings that tables, figures and sentences of a comparison share."""

from collections.abc import Callable, Iterable, Sequence

from gpt2lab.record.sweep import WORDS, Word
from gpt2lab.report import numbers
from gpt2lab.report.comparison.statistics import Estimate, Interval
from gpt2lab.report.markdown import Markdown, escape

NO_BREAK, NO_BREAK_HYPHEN = "\u00a0", "\u2011"
METRIC_NAMES = {
    "val_loss": "Validation loss",
    "train_loss": "Training loss, running",
    "train_eval_loss": "Training loss",
    "test_loss": "Test loss",
    "val_accuracy": "Validation accuracy",
    "train_accuracy": "Training accuracy",
    "test_accuracy": "Test accuracy",
    "elapsed_s": "Training time",
    "peak_mem_mib": "Peak memory",
}
UNITS = {"elapsed_s": "s", "peak_mem_mib": "MiB"}


def metric_name(metric: str) -> str:
    """Return the name of a column of metrics.csv for a reader."""
    return METRIC_NAMES.get(metric, metric)


def metric_unit(metric: str) -> str:
    """Return the unit of a column, "" for an accuracy."""
    return "nats per counted token" if metric.endswith("_loss") else UNITS.get(metric, "")


def state_words(words: Iterable[Word]) -> dict[str, int]:
    """Return how often each state occurs, finished first; states that do not occur are left out."""
    found = list(words)
    return {word: found.count(word) for word in WORDS if word in found}


def jobs_line(counts: dict[str, int]) -> str:
    """Return `18 jobs: 15 finished, 1 diverged, 1 interrupted, 1 not started`."""
    total = sum(counts.values())
    return f"{plural(total, 'job')}: " + ", ".join(f"{number:,} {word}" for word, number in counts.items())


def plural(number: int, word: str) -> str:
    """Return `1 arm` or `7 arms`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def listed(items: Sequence[str], most: int = 8) -> str:
    """Return items as `a, b and c`, those beyond `most` as a number."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most:,} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1] if items else ""]))


def signed(value: float) -> str:
    """A difference with its sign, and digits enough to compare."""
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:+.4f}"
    return f"{value:+,.0f}" if abs(value) >= 100 else f"{'+' if value > 0 else ''}{numbers.loss(value)}"


def signed_percent(value: float) -> str:
    """A share as a percentage with its sign; what rounds to nothing has none."""
    shown = f"{100 * value:+.1f}"
    return f"{'0.0' if float(shown) == 0 else shown} %"


def two_digits(value: float) -> str:
    """A deviation with two significant digits."""
    return numbers.significant(value, 2)


def signed_interval(ends: Interval | None) -> str:
    """Return `-0.0100 to +0.0300`."""
    return numbers.MISSING if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"


def spread(value: float) -> str:
    """A standard deviation, with the decimals of the mean beside it where they say something."""
    return f"{value:.4f}" if 0.0005 <= value < 100 else numbers.significant(value, 2)


def mean_std(estimate: Estimate | None, show: Callable[[float], str], of: Callable[[float], str] = spread) -> Markdown:
    """Return `1.8123 ± 0.0042`, never broken after the sign; the mean alone without a spread, which `of` shows."""
    if estimate is None:
        return Markdown(numbers.MISSING)
    deviation = "" if estimate.std is None else " " + unbroken(f"± {of(estimate.std)}").replace("-", NO_BREAK_HYPHEN)
    return Markdown(f"{show(estimate.mean)}{deviation}")


def unbroken(text: str) -> Markdown:
    """Return text that no line break parts."""
    return Markdown(escape(text).replace(" ", NO_BREAK))


def p_value(p: float | None) -> str:
    """A p-value, one below 0.0001 as no more than that."""
    return "< 0.0001" if p is not None and p < 1e-4 else numbers.rounded(p)


def sentence(text: str) -> str:
    """Return text with a capital at its beginning and a full stop at its end."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def lowered(text: str) -> str:
    """Return text with a small letter at its beginning."""
    return text[:1].lower() + text[1:]


def count_verdicts(verdicts: Sequence[str]) -> str:
    """Return `All 6 arms are worse than the baseline`, `Of 5 arms, 3 are better than the baseline, 2 not ...`."""
    preposition = {"better": "than", "worse": "than", "not distinguishable": "from", "not compared": "with"}
    found = [word for word in preposition if word in verdicts]
    if len(found) == 1:
        who = "The one other arm is" if len(verdicts) == 1 else f"All {len(verdicts):,} other arms are"
        return f"{who} {found[0]} {preposition[found[0]]} the baseline"
    said = [f"{verdicts.count(word):,} {word} {preposition[word]}" for word in found]
    said[0] = said[0].replace(" ", " is " if verdicts.count(found[0]) == 1 else " are ", 1)
    return f"Of {len(verdicts):,} other arms, {listed(said)} the baseline"
