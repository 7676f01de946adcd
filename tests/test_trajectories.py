"""Curves side by side: smoothing, crossings, common steps, ranges, seconds. Every expectation is computed by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import medfilt

from gpt2lab.report.comparison import trajectories
from gpt2lab.report.comparison.trajectories import (
    common_steps,
    first_reaching,
    gap,
    running_minimum,
    seed_range,
    smoothed,
    value_at,
)
from gpt2lab.report.inputs import Curve, read_inputs
from tests.run_records import text_rows, write_record


def curve(*points: tuple[int, float]) -> Curve:
    return Curve(np.array([p[0] for p in points]), np.array([p[1] for p in points], dtype=np.float64))


def falling(*values: float) -> Curve:
    return curve(*((10 * index, value) for index, value in enumerate(values)))


def test_a_lone_outlier_is_smoothed_away_and_the_ends_stay() -> None:
    assert smoothed(falling(5, 4, 90, 3, 2, 1)).values.tolist() == [5, 5, 4, 3, 2, 1]
    # windows by hand: [5], [5 4 90], [5 4 90 3 2], [4 90 3 2 1], [3 2 1], [1]


def test_inside_the_smoothing_is_the_median_filter_of_scipy() -> None:
    values = np.random.default_rng(1).normal(size=40)
    assert smoothed(falling(*values)).values[2:-2] == pytest.approx(medfilt(values, 5)[2:-2])


@given(st.lists(st.floats(0, 10), min_size=0, max_size=20), st.sampled_from([1, 3, 5, 7, 9]))
def test_smoothing_is_the_median_of_a_window_that_shrinks_at_the_ends(values: list[float], window: int) -> None:
    sides = [min(window // 2, i, len(values) - 1 - i) for i in range(len(values))]
    expected = [float(np.median(values[i - side : i + side + 1])) for i, side in enumerate(sides)]
    assert smoothed(falling(*values), window).values.tolist() == expected


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_a_curve_that_only_falls_is_not_changed_by_smoothing(values: list[float]) -> None:
    monotone = falling(*sorted(values, reverse=True))
    assert smoothed(monotone).values.tolist() == monotone.values.tolist()


def test_the_running_minimum_never_rises() -> None:
    assert running_minimum(falling(5, 3, 4, 2, 6)).values.tolist() == [5, 3, 3, 2, 2]


def test_a_crossing_lies_on_the_line_between_two_measurements() -> None:
    assert first_reaching(falling(4, 2, 1), 2.5) == 7.5
    assert first_reaching(falling(4, 2, 1), 2) == 10
    assert first_reaching(falling(4, 2, 1), 1) == 20
    assert first_reaching(falling(4, 1, 5, 0), 0.5) == pytest.approx(29)


def test_a_value_that_is_never_reached_has_no_step() -> None:
    assert first_reaching(falling(4, 2, 1), 0.99) is None
    assert first_reaching(Curve(np.array([], dtype=np.int64), np.array([])), 1) is None


def test_a_curve_that_begins_below_reaches_it_at_its_first_step() -> None:
    assert first_reaching(curve((50, 1.0), (60, 0.5)), 2) == 50


def test_an_accuracy_reaches_a_value_from_below() -> None:
    assert first_reaching(falling(0.0, 0.5, 1.0), 0.75, rising=True) == 15


def test_values_are_interpolated_and_nothing_is_said_beyond_the_ends() -> None:
    measured = curve((10, 4.0), (20, 2.0))
    assert (value_at(measured, 10), value_at(measured, 15), value_at(measured, 20)) == (4, 3, 2)
    assert value_at(measured, 9.9) is None and value_at(measured, 20.1) is None


def test_the_gap_is_taken_where_both_were_measured() -> None:
    found = gap(curve((0, 5.0), (10, 3.0), (20, 1.0)), curve((0, 5.5), (20, 2.0), (30, 2.5)))
    assert found.steps.tolist() == [0, 20] and found.values.tolist() == [0.5, 1.0]


def test_curves_without_a_common_step_have_neither_gap_nor_range() -> None:
    one, other = curve((0, 1.0)), curve((5, 1.0))
    assert len(gap(one, other)) == 0 and len(common_steps([])) == 0
    assert len(seed_range([one, other])) == len(seed_range([])) == 0


def test_a_range_holds_mean_spread_and_range_at_the_common_steps() -> None:
    found = seed_range([curve((0, 1.0), (10, 2.0), (20, 9.0)), curve((0, 3.0), (10, 6.0)), curve((0, 5.0), (10, 4.0))])
    assert found.n == 3 and found.steps.tolist() == [0, 10]
    assert found.mean.tolist() == [3, 4] and found.std.tolist() == [2, 2]
    assert found.low.tolist() == [1, 2] and found.high.tolist() == [5, 6]


def test_the_range_of_one_run_has_no_width() -> None:
    found = seed_range([falling(3, 2)])
    assert found.n == 1
    assert found.std.tolist() == [0, 0] and found.low.tolist() == found.high.tolist() == [3, 2]


def test_a_range_is_thinned_evenly_and_keeps_both_ends() -> None:
    found = seed_range([falling(*range(9)), falling(*range(9))], 3)
    assert found.mean.tolist() == [0, 4, 8]


def test_seconds_are_interpolated_from_the_start_of_training(tmp_path: Path) -> None:
    inputs = read_inputs(write_record(tmp_path / "run", text_rows(steps=100)))  # 0.06 s per step, first row at 10
    assert trajectories.seconds_at(inputs, 5) == pytest.approx(0.3)
    assert trajectories.seconds_at(inputs, 95) == pytest.approx(5.7)
    assert trajectories.seconds_at(inputs, 101) is None
    assert trajectories.seconds_at(replace(inputs, rows=[]), 5) is None


@pytest.mark.parametrize(
    ("status", "share"),
    [
        ({"training_s": 60.0}, 0.25),  # 10:00:00 to 10:01:20 are 80 s
        ({"training_s": 90.0}, None),
        ({"training_s": None}, None),
        ({"ended": None}, None),
        ({"ended": "soon"}, None),
        ({"ended": "2026-03-01T10:01:20"}, None),  # without the time zone that the start has
        ({"ended": "2026-03-01T10:00:00+00:00", "training_s": 0.0}, None),
    ],
)
def test_time_outside_training_is_a_share_of_start_to_end(tmp_path: Path, status: dict, share: float | None) -> None:
    inputs = read_inputs(write_record(tmp_path / "run", text_rows(steps=10), status=status))
    assert trajectories.outside_share(inputs) == (None if share is None else pytest.approx(share))
