"""Measures of a matrix of evaluations, against numbers computed by hand."""

import math

import numpy as np
import pytest

from gpt2lab.report.evaluation.matrix import average, measure_chain
from gpt2lab.report.evaluation.record import describe_measurement

NAN = math.nan
# Row = after phase, column = task.
ACCURACY = np.array([[0.8, 0.1, 0.2], [0.9, 0.5, 0.3], [0.4, 0.6, 0.7]])
LOSS = np.array([[1.0, 3.0, 4.0], [0.8, 2.0, 3.5], [1.5, 1.9, 1.2]])


def test_the_diagonal_is_each_task_right_after_its_phase():
    np.testing.assert_array_equal(measure_chain(ACCURACY, "accuracy")["diagonal"], [0.8, 0.5, 0.7])


def test_retention_of_an_accuracy_is_a_ratio():
    np.testing.assert_allclose(measure_chain(ACCURACY, "accuracy")["retention"], [0.4 / 0.8, 0.6 / 0.5, NAN])


def test_retention_of_a_loss_is_a_ratio_of_probabilities():
    # exp(1.0 - 1.5) and exp(2.0 - 1.9)
    np.testing.assert_allclose(measure_chain(LOSS, "loss")["retention"], [0.6065306597, 1.1051709181, NAN])
    probabilities = np.exp(-LOSS)
    np.testing.assert_allclose(
        measure_chain(LOSS, "loss")["retention"], measure_chain(probabilities, "accuracy")["retention"]
    )


def test_forgetting_is_held_to_the_best_earlier_phase_not_to_the_own_one():
    np.testing.assert_allclose(measure_chain(ACCURACY, "accuracy")["forgetting"], [0.9 - 0.4, 0.5 - 0.6, NAN])
    np.testing.assert_allclose(measure_chain(LOSS, "loss")["forgetting"], [1.5 - 0.8, 1.9 - 2.0, NAN])


def test_backward_transfer_is_a_gain_after_the_own_phase():
    np.testing.assert_allclose(measure_chain(ACCURACY, "accuracy")["backward"], [-0.4, 0.1, NAN])
    np.testing.assert_allclose(measure_chain(LOSS, "loss")["backward"], [-0.5, 0.1, NAN])


def test_forward_transfer_is_a_gain_before_the_own_phase():
    before = np.array([0.0, 0.3, 0.1])
    np.testing.assert_allclose(measure_chain(ACCURACY, "accuracy", before)["forward"], [NAN, 0.1 - 0.3, 0.3 - 0.1])
    np.testing.assert_allclose(measure_chain(LOSS, "loss", np.array([5.0, 4.0, 4.0]))["forward"], [NAN, 1.0, 0.5])


def test_losses_and_accuracies_of_opposite_sign_forget_and_transfer_alike():
    rng = np.random.default_rng(0)
    matrix, before = rng.random((4, 4)), rng.random(4)
    as_loss, as_accuracy = measure_chain(-matrix, "loss", -before), measure_chain(matrix, "accuracy", before)
    for name in ("forgetting", "backward", "forward"):
        np.testing.assert_allclose(as_loss[name], as_accuracy[name])


def test_averages_leave_out_the_tasks_that_a_measure_is_not_defined_for():
    averages = average(measure_chain(ACCURACY, "accuracy", np.array([0.0, 0.3, 0.1])))
    expected = {
        "diagonal": 2.0 / 3,
        "final": 1.7 / 3,
        "retention": (0.5 + 1.2) / 2,
        "forgetting": (0.5 - 0.1) / 2,
        "backward": (-0.4 + 0.1) / 2,
        "forward": (-0.2 + 0.2) / 2,
    }
    assert averages == pytest.approx(expected)


def test_what_was_not_measured_makes_what_depends_on_it_unknown():
    matrix = ACCURACY.copy()
    matrix[0, 1] = NAN  # an earlier phase on task 1: its best is unknown, its own value is not
    chain = measure_chain(matrix, "accuracy")
    np.testing.assert_allclose(chain["forgetting"], [0.5, NAN, NAN])
    np.testing.assert_allclose(chain["retention"], [0.5, 1.2, NAN])
    assert math.isnan(average(chain)["forgetting"])
    assert math.isnan(average(chain)["forward"])
    assert average(chain)["retention"] == pytest.approx(0.85)


def test_nothing_is_left_of_an_accuracy_of_zero():
    chain = measure_chain(np.array([[0.0, 0.2], [0.1, 0.3]]), "accuracy")
    assert np.isnan(chain["retention"]).all()


def describe(every_position: bool = True, **changes) -> dict:
    row = {"model": "m", "task": "t", "loss": 1.0, "accuracy": 0.5, "tokens": 10, "n_bytes": None} | changes
    return describe_measurement(row, every_position=every_position)


def test_a_domain_row_counts_bits_per_byte_of_what_was_evaluated():
    row = describe(loss=2 * math.log(2), tokens=300, n_bytes=1200)
    assert row["perplexity"] == pytest.approx(4.0)
    assert row["bits_per_byte"] == pytest.approx(0.5)  # two bits a token, four bytes a token


def test_a_domain_row_has_no_bits_per_byte_without_bytes_or_with_a_mask():
    assert describe()["bits_per_byte"] is None
    assert describe(n_bytes=10, every_position=False)["bits_per_byte"] is None


def test_a_perplexity_that_no_number_holds_is_left_out():
    assert describe(loss=800.0)["perplexity"] is None
