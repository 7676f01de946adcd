"""The sentences of a report, on curves whose story is known because it was drawn by hand."""

import math

import numpy as np
import pytest

from gpt2lab.report import analysis
from gpt2lab.report.inputs import Curve


def curve(values: list[float] | np.ndarray, every: int = 100, start: int = 0) -> Curve:
    return Curve(start + every * np.arange(len(values)), np.asarray(values, dtype=np.float64))


NOTHING = curve([])


def test_a_fitted_line_gives_numpys_slope_and_the_textbook_error() -> None:
    steps, values = np.array([0.0, 1, 2, 3, 5]), np.array([1.0, 2.5, 2.0, 4.0, 5.5])
    slope, error = analysis.fit_line(steps, values)
    (expected, _), covariance = np.polyfit(steps, values, 1, cov=True)
    assert slope == pytest.approx(expected)
    assert error == pytest.approx(math.sqrt(covariance[0, 0]))


def test_a_loss_that_falls_in_a_line_is_still_falling_by_the_change_of_that_line() -> None:
    found = analysis.convergence(curve([5.0 - 0.1 * n for n in range(31)]))
    assert found and found.verdict == "Still falling"
    assert "the 11 validation losses of steps 2,000 to 3,000 changes by -1.0000 ± 0.0000 nats" in found.text


def test_a_loss_that_only_jitters_within_a_hundredth_is_level() -> None:
    found = analysis.convergence(curve([5.0] * 20 + [2.0 + 0.01 * (-1) ** n for n in range(11)]))
    assert found and found.verdict == "Level at the end"


def test_a_loss_that_jumps_about_is_too_noisy_and_not_called_converged() -> None:
    found = analysis.convergence(curve([5.0] * 20 + [2.0 + 0.5 * (-1) ** n for n in range(11)]))
    assert found and found.verdict == "Too noisy to call converged"


def test_a_loss_that_climbs_at_the_end_is_rising() -> None:
    found = analysis.convergence(curve([3.0] * 20 + [2.0 + 0.02 * n for n in range(11)]))
    assert found and found.verdict == "Rising at the end" and "+0.2000" in found.text


def test_a_certain_but_tiny_fall_is_not_called_falling() -> None:
    found = analysis.convergence(curve([5.0] * 20 + [2.0 - 1e-4 * n for n in range(11)]))
    assert found and found.verdict == "Level at the end"


def test_the_last_five_evaluations_are_used_where_a_third_holds_fewer() -> None:
    found = analysis.convergence(curve([5.0, 4.0, 3.5, 3.2, 3.0, 2.9, 2.85]))
    assert found and "the 5 validation losses of steps 200 to 600" in found.text


def test_the_loss_before_training_is_no_part_of_the_trend() -> None:
    found = analysis.convergence(curve([9.0, 2.0, 2.0, 2.0, 2.0]))
    assert found and found.verdict == "Convergence unknown" and found.text.startswith("4 evaluations")
    assert analysis.convergence(curve([9.0])) is None


def test_a_learning_rate_that_fell_over_the_window_is_named_as_a_cause() -> None:
    val = curve([5.0 - 0.1 * n for n in range(31)])
    steady, decayed = curve([1e-3] * 31), curve([1e-3 * (1 - n / 32) for n in range(31)])
    with_steady, with_decayed = analysis.convergence(val, steady), analysis.convergence(val, decayed)
    assert with_steady and "learning rate" not in with_steady.text
    assert with_decayed and "The learning rate fell from 3.75e-4 to 6.25e-5" in with_decayed.text


def test_a_best_loss_before_the_end_is_named_with_the_rise_since() -> None:
    found = analysis.best_earlier(curve([3.0, 2.0, 1.5, 1.75]))
    assert found and "lowest at step 200 (1.5000 nats) and ended 0.2500 nats higher at step 300" in found.text
    assert analysis.best_earlier(curve([3.0, 2.0, 1.5, 1.504])) is None
    assert analysis.best_earlier(NOTHING) is None


def test_the_gap_is_taken_at_the_last_step_where_both_splits_were_measured() -> None:
    found = analysis.gap(curve([5.0, 2.0, 1.0]), curve([5.0, 2.5]))
    assert found and found.verdict == "Validation above training"
    assert "At step 100" in found.text and "gap of 0.5000 nats" in found.text


def test_a_validation_split_that_is_easier_is_said_to_be() -> None:
    found = analysis.gap(curve([5.0, 2.0]), curve([5.0, 1.5]))
    assert found and found.verdict == "Validation below training"
    assert "gap of -0.5000" in found.text and "differ in difficulty" in found.text


def test_equal_splits_have_no_gap_and_splits_never_measured_together_have_no_finding() -> None:
    found = analysis.gap(curve([5.0, 2.0]), curve([5.0, 2.001]))
    assert found and found.verdict == "No gap between the splits"
    assert analysis.gap(curve([5.0]), curve([5.0])) is None
    assert analysis.gap(NOTHING, curve([5.0, 2.0])) is None


SEEN = curve([0.0, 0.995, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("train", "val", "verdict", "words"),
    [
        (SEEN, [0, 0.1, 0.2, 0.3, 0.5, 0.99], "Delayed generalisation", "400 steps later and 5.0 times"),
        (curve([0, 0, 1, 1]), [0, 0.1, 0.2, 0.99], "Generalised soon after memorising", "100 steps later"),
        (SEEN, [0, 0.1, 0.2, 0.3, 0.5, 0.7], "Memorised, not generalised", "did not by step 500, where it is 0.7000"),
        (SEEN, [0, 0.99, 1, 1, 1, 1], "Generalised at once", "at step 100, training accuracy at step 100"),
        (curve([0, 0.5, 0.9]), [0, 0.99, 1], "Generalised at once", "training accuracy did not"),
        (curve([0, 0.5]), [0, 0.4], "Neither memorised nor generalised", "training 0.5000, validation 0.4000"),
        (NOTHING, [0, 0.4, 1.0], "Generalised", "at step 200. Training accuracy was not measured"),
        (NOTHING, [0, 0.4], "Not reached", "not by step 100"),
    ],
)
def test_each_order_of_reaching_the_threshold_has_its_verdict(
    train: Curve, val: list[float], verdict: str, words: str
) -> None:
    found = analysis.generalisation(train, curve(val))
    assert found and found.verdict == verdict
    assert words in found.text


def test_twice_as_many_steps_are_the_border_of_delayed() -> None:
    train = curve([0, 0, 1, 1, 1, 1])
    at_border, before = (
        analysis.generalisation(train, curve([0, 0, 0, 0, 1, 1])),
        analysis.generalisation(train, curve([0, 0, 0, 1, 1, 1])),
    )
    assert at_border and at_border.verdict == "Delayed generalisation"
    assert before and before.verdict == "Generalised soon after memorising"


def test_an_accuracy_that_was_lost_again_is_not_passed_over() -> None:
    found = analysis.generalisation(SEEN, curve([0, 1, 1, 1, 1, 0.6]))
    assert found and found.text.endswith("It did not stay there: 0.6000 at step 500.")


def test_one_jump_over_two_rows_is_one_spike_at_its_highest_row() -> None:
    values = [2.0] * 30
    values[20:22] = [3.0, 3.5]
    assert analysis.find_spikes(curve(values)) == [(2100, 3.5, 2.0)]
    found = analysis.spikes(curve(values))
    assert found and found.verdict == "1 loss spike" and "At step 2,100: training loss 3.5000" in found.text


def test_two_jumps_apart_are_two_spikes_and_the_larger_is_named() -> None:
    values = [2.0] * 40
    values[15], values[30] = 2.5, 4.0
    found = analysis.spikes(curve(values))
    assert found and found.verdict == "2 loss spikes" and "The largest at step 3,000" in found.text


@pytest.mark.parametrize("jump", [0.09, -2.0])
def test_small_rises_and_falls_are_no_spikes(jump: float) -> None:
    values = [2.0] * 30
    values[20] += jump
    found = analysis.spikes(curve(values))
    assert found and found.verdict == "No loss spikes"


def test_a_rise_within_six_spreads_of_a_noisy_curve_is_no_spike() -> None:
    noisy = [2.0 + 0.2 * (-1) ** n for n in range(30)]
    for rise, expected in ((1.5, 0), (2.5, 1)):
        assert len(analysis.find_spikes(curve([*noisy, 2.0 + rise]))) == expected


def test_clipping_counts_the_updates_above_the_threshold() -> None:
    found = analysis.clipping(curve([99.0, 0.5, 3.0, 2.0, 1.0]), 1.0)
    assert found and "above 1 at 2 of 4 logged updates; the largest was 3.00 at step 200" in found.text
    assert analysis.clipping(curve([0.5, 3.0]), 0) is None
    assert analysis.clipping(curve([0.5, 0.3]), 1.0) is None


def test_a_loss_is_measured_against_the_unigram_entropy_before_a_uniform_guess() -> None:
    found = analysis.against_references(curve([5.5, 2.0]), unigram=3.0, reachable=None, random_guess=5.5)
    assert found and found.verdict == "Better than token frequencies"
    assert "1.0000 nats below the unigram entropy of the split (3.0000)" in found.text and "uniform" not in found.text


@pytest.mark.parametrize(("last", "side"), [(3.2, "above"), (2.997, "below")])
def test_a_loss_at_the_entropy_has_not_beaten_it(last: float, side: str) -> None:
    found = analysis.against_references(curve([5.5, last]), unigram=3.0, reachable=None, random_guess=5.5)
    assert found and found.verdict == "Not better than token frequencies" and side in found.text


def test_a_loss_below_the_best_reachable_one_is_called_a_leak() -> None:
    found = analysis.against_references(curve([5.5, 1.0]), unigram=None, reachable=1.5, random_guess=4.0)
    assert found and found.verdict == "Better than possible" and "leak" in found.text


def test_without_references_or_training_nothing_is_compared() -> None:
    assert analysis.against_references(curve([5.5, 1.0]), unigram=None, reachable=None, random_guess=None) is None
    assert analysis.against_references(curve([5.5]), unigram=3.0, reachable=None, random_guess=5.5) is None


def test_a_loss_that_is_not_a_number_is_the_first_thing_said() -> None:
    found = analysis.progress(curve([5.0, 6.0]), [200], 200)
    assert found and found.verdict == "Diverged" and "not finite at step 200" in found.text and "6.0000" in found.text
    assert analysis.progress(curve([5.0]), [], 100) is None


def test_a_record_without_updates_says_that_nothing_was_trained() -> None:
    for steps in (0, None):
        found = analysis.progress(NOTHING, [], steps)
        assert found and found.verdict == "Nothing was trained"


def test_one_seed_claims_no_difference() -> None:
    assert "n = 1 (seed 7)" in analysis.one_seed(7).text
