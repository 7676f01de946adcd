import math

import pytest

from gpt2lab.archive.agreement import ChangedValue, compare_rows

ROWS = [
    {"step": 0, "tokens": 0, "val_loss": 5.5},
    {"step": 10, "tokens": 80, "train_loss": 4.0, "step_ms": 3.0, "elapsed_s": 0.1},
    {"step": 20, "tokens": 160, "train_loss": math.nan, "step_ms": 3.0},
]


def changed(step: int, **values: float | None) -> list[dict]:
    return [{**row, **values} if row["step"] == step else row for row in ROWS]


def test_equal_rows_are_identical_and_a_nan_equals_a_nan():
    agreement = compare_rows(ROWS, [dict(row) for row in ROWS])
    assert agreement.verdict(0.0) == "identical"
    assert (agreement.n_rows, agreement.n_values, agreement.largest) == (3, 9, None)


def test_timings_are_not_compared():
    other = changed(10, step_ms=99.0, elapsed_s=7.0, tokens_per_s=1.0, peak_mem_mib=3.0)
    assert compare_rows(ROWS, other).verdict(0.0) == "identical"


def test_the_first_and_the_largest_difference_are_named():
    agreement = compare_rows(
        ROWS, [{**row, "tokens": 161} if row["step"] == 20 else row for row in changed(0, val_loss=4.4)]
    )
    assert str(agreement.differences[0]) == "step 0, val_loss: archived 5.5, now 4.4"
    assert agreement.largest == ChangedValue(step=0, column="val_loss", archived=5.5, reproduced=4.4)
    assert agreement.largest.relative == pytest.approx(0.2)
    assert len(agreement.differences) == 2


def test_the_tolerance_is_relative_and_inclusive():
    agreement = compare_rows(ROWS, changed(10, train_loss=5.0))
    assert agreement.verdict(0.2) == "within tolerance"
    assert agreement.verdict(0.19) == "different"
    assert agreement.verdict(0.0) == "different"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_number_that_became_none_nan_or_infinite_is_within_no_tolerance(value):
    agreement = compare_rows(ROWS, changed(10, train_loss=value))
    assert agreement.largest is not None
    assert agreement.largest.relative == math.inf
    assert agreement.verdict(1e300) == "different"


def test_missing_and_extra_rows_are_different_whatever_the_tolerance():
    agreement = compare_rows(ROWS, [*ROWS[:2], {"step": 30}])
    assert (agreement.missing, agreement.extra) == ((20,), (30,))
    assert agreement.verdict(1.0) == "different"
    assert compare_rows(ROWS, []).verdict(1.0) == "different"


def test_what_only_an_early_end_measures_is_left_out_there_and_only_there():
    ended = changed(10, val_loss=3.0)[:2]
    assert compare_rows(ROWS[:2], ended, stopped=10).verdict(0.0) == "identical"
    assert compare_rows(ROWS[:2], ended, stopped=0).verdict(0.0) == "different"
    assert compare_rows(ROWS[:2], changed(10, train_loss=3.0)[:2], stopped=10).verdict(0.0) == "different"


def test_a_column_that_this_version_does_not_know_is_compared_too():
    assert compare_rows(changed(10, new_loss=1.0), changed(10, new_loss=2.0)).differences[0].column == "new_loss"


def test_a_metric_that_the_archived_run_never_measured_is_not_compared():
    later = [{**row, "new_loss": 1.0} for row in ROWS]
    assert compare_rows(ROWS, later).verdict(0.0) == "identical"
    assert compare_rows(later, ROWS).verdict(1e300) == "different"
