"""Statistics over seeds: hand-computed cases, scipy's own answers, and what must hold for any values."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gpt2lab.report.comparison import statistics
from gpt2lab.report.comparison.statistics import (
    corrected_interval,
    estimate,
    holm,
    judge,
    noise_floor,
    paired_difference,
)

values = st.floats(-10, 10).map(lambda value: round(value, 3))
samples = st.lists(values, min_size=2, max_size=8).map(np.array)
pairs = st.lists(st.tuples(values, values), min_size=2, max_size=8).map(np.array)
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def verdict(difference, corrected_p=None, floor=None, higher_is_better=False):
    p = difference.p if corrected_p is None and difference is not None else corrected_p
    return judge(difference, corrected_p=p, comparisons=1, floor=floor, higher_is_better=higher_is_better)


def test_mean_spread_and_interval_are_those_computed_by_hand():
    found = estimate(np.array([1.0, 2.0, 3.0]))
    assert (found.n, found.mean, found.std) == (3, 2.0, 1.0)
    # t(0.975, 2) = 4.302653, over sqrt(3)
    assert found.interval == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)


def test_one_value_has_neither_spread_nor_interval():
    found = estimate(np.array([1.5]))
    assert (found.n, found.mean, found.std, found.interval) == (1, 1.5, None, None)


def test_a_paired_difference_is_that_computed_by_hand():
    found = paired_difference(np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.0, 2.5]))
    assert (found.n, found.mean, found.std) == (3, 1.0, 0.5)
    # t = 1 / (0.5 / sqrt(3)) = 3.4641; for two degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert found.interval == pytest.approx((1 - 1.242069, 1 + 1.242069), abs=1e-6)


@given(samples)
def test_the_interval_is_the_one_of_scipy(sample):
    found = estimate(sample)
    if found.std:
        error = sample.std(ddof=1) / math.sqrt(len(sample))
        assert found.interval == pytest.approx(stats.t.interval(0.95, len(sample) - 1, sample.mean(), error))
    else:
        assert found.interval == (found.mean, found.mean)


@given(pairs)
def test_the_p_value_is_the_one_of_scipy(rows):
    found = paired_difference(rows[:, 0], rows[:, 1])
    if np.ptp(rows[:, 0] - rows[:, 1]) > 1e-6:
        assert found.p == pytest.approx(stats.ttest_rel(rows[:, 0], rows[:, 1]).pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3])
def test_pairs_that_all_differ_by_the_same_amount_are_not_tested(n):
    baseline = np.array([1.1, 1.3, 1.7])[:n]
    found = paired_difference(baseline + 0.1, baseline)  # 0.1 but for rounding
    assert (found.std, found.p, found.interval) == (0, None, None) and found.mean == pytest.approx(0.1)
    judged = verdict(found)
    assert (judged.verdict, judged.rule) == ("not distinguishable", "no spread between the pairs: not tested")


def test_pairs_that_are_equal_have_p_one():
    assert paired_difference(np.ones(3), np.ones(3)).p == 1
    assert verdict(paired_difference(np.ones(3), np.ones(3))).verdict == "not distinguishable"


@given(pairs)
def test_swapping_the_baseline_turns_the_sign_and_keeps_the_p_value(rows):
    one, other = paired_difference(rows[:, 0], rows[:, 1]), paired_difference(rows[:, 1], rows[:, 0])
    assert one.mean == -other.mean
    assert one.p == other.p
    assert (one.interval is None) == (other.interval is None)
    if one.interval is not None:
        assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


def test_holm_multiplies_the_smallest_by_how_many_there_are():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(probabilities)
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


@given(pairs, st.integers(1, 10))
def test_the_corrected_interval_contains_zero_just_when_the_corrected_p_value_is_not_small(rows, comparisons):
    found = paired_difference(rows[:, 0], rows[:, 1])
    if not found.std:
        return
    corrected = min(1.0, comparisons * found.p)
    if abs(corrected - 0.05) < 1e-6 or corrected < 1e-9:
        return
    low, high = corrected_interval(found, corrected, comparisons)
    assert (low <= 0 <= high) == (corrected >= 0.05)


def test_the_noise_floor_pools_the_groups_that_have_several_runs():
    # Squared deviations 0.02 and 0.08, degrees of freedom 2 and 1; the single run counts for nothing.
    floor = noise_floor([np.array([1.0, 1.1, 0.9]), np.array([5.0, 5.4]), np.array([9.0])])
    assert floor.std == pytest.approx(math.sqrt((0.02 + 0.08) / 3))
    assert (floor.groups, floor.runs) == (2, 5)
    assert noise_floor([np.array([1.0]), np.array([2.0])]) is None
    assert noise_floor([]) is None


def test_one_pair_is_never_distinguishable():
    found = verdict(paired_difference(np.array([1.0]), np.array([9.0])))
    assert found.verdict == "not distinguishable"
    assert "n = 1" in found.rule


def test_arms_without_a_common_seed_are_not_distinguishable():
    found = verdict(None)
    assert found.verdict == "not distinguishable"
    assert "no seed in common" in found.rule


def test_an_interval_that_contains_zero_decides_and_is_stated():
    found = verdict(paired_difference(np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.0, 2.5])))
    assert found.verdict == "not distinguishable"
    assert "-0.2421 to +2.242, contains 0 (corrected p = 0.074)" in found.rule


def test_an_effect_inside_the_noise_floor_is_not_distinguishable_however_sure():
    found = verdict(
        paired_difference(np.array([1.001, 1.1011, 0.9009]), np.array([1.0, 1.1, 0.9])),
        floor=noise_floor([np.array([1.0, 1.1, 0.9])]),
    )
    assert found.verdict == "not distinguishable"
    assert "inside the noise floor of 0.1" in found.rule


@pytest.mark.parametrize(("higher_is_better", "expected"), [(False, ["worse", "better"]), (True, ["better", "worse"])])
def test_the_direction_of_the_metric_decides_between_better_and_worse(higher_is_better, expected):
    high, low = np.array([2.0, 2.1, 1.91]), np.array([1.0, 1.1, 0.9])
    floor = noise_floor([low])
    for difference, word in zip((paired_difference(high, low), paired_difference(low, high)), expected, strict=True):
        found = verdict(difference, floor=floor, higher_is_better=higher_is_better)
        assert found.verdict == word
        assert "larger than the noise floor" in found.rule


def test_a_correction_can_take_a_difference_away():
    difference = paired_difference(np.array([2.0, 2.1, 2.0]), np.array([1.0, 1.3, 0.8]))
    assert difference.p < 0.05
    assert verdict(difference).verdict == "worse"
    assert verdict(difference, corrected_p=20 * difference.p).verdict == "not distinguishable"


@given(pairs, st.floats(0, 1))
def test_a_verdict_in_one_direction_is_the_opposite_in_the_other(rows, corrected_p):
    difference = paired_difference(rows[:, 0], rows[:, 1])
    corrected = None if difference.p is None else max(corrected_p, difference.p)
    opposite = {"better": "worse", "worse": "better", "not distinguishable": "not distinguishable"}
    low = judge(difference, corrected_p=corrected, comparisons=5, floor=None, higher_is_better=False)
    high = judge(difference, corrected_p=corrected, comparisons=5, floor=None, higher_is_better=True)
    assert opposite[low.verdict] == high.verdict


def test_values_that_are_not_finite_are_not_averaged():
    with pytest.raises(AssertionError, match="finite"):
        statistics.estimate(np.array([1.0, math.nan]))


def told(values, reached=None):
    return statistics.censored_median(
        np.array(values), np.array(reached if reached is not None else [True] * len(values))
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_without_bounds_the_censored_median_is_the_ordinary_one(times):
    found = told(times)
    assert found.median == np.median(times) and found.beyond is None
    assert (found.low, found.high, found.reached) == (min(times), max(times), len(times))


def test_a_median_is_a_number_while_more_than_half_got_there():
    assert told([900, 1100, 2000], [True, True, False]).median == 1100
    assert told([900, 1100, 1500, 2000], [True, True, True, False]).median == 1300  # of 900, 1100, 1500 and more


def test_a_median_is_beyond_the_last_step_when_half_or_more_never_got_there():
    found = told([900, 1100, 2000, 2000], [True, True, False, False])
    assert found.median is None and found.beyond == 2000
    assert found.median_text(lambda value: f"{value:,.0f}") == "> 2,000"
    assert found.range_text(lambda value: f"{value:,.0f}") == "900 to > 2,000"


def test_a_run_that_was_stopped_early_leaves_the_median_to_those_that_were_watched():
    # At 900 one of three is there: 2/3 are not. The one stopped at 1000 is watched no more: at 1100 one of one is.
    assert told([900, 1000, 1100], [True, False, True]).median == 1100


def test_a_run_that_never_will_counts_against_the_median_however_early_it_ended():
    found = told([900, math.inf, math.inf], [True, False, False])
    assert found.median is None and found.beyond == math.inf
    assert (found.median_text(str), found.range_text(str)) == ("never", "900.0 to never")
    assert told([math.inf], [False]).median_text(str) == told([math.inf], [False]).range_text(str) == "never"


def test_one_run_that_never_will_does_not_make_the_median_never():
    found = told([2000, 2000, math.inf], [False, False, False])
    assert (found.median_text(str), found.range_text(str)) == ("> 2000.0", "> 2000.0 to never")


def test_a_run_watched_for_less_than_the_last_took_is_not_said_to_have_been_watched_as_long():
    found = told([250, 100, 100], [True, False, False])
    assert found.median == 250 and found.beyond == 100
    assert found.range_text(str) == "250.0; others not by 100.0"
    assert told([200, 250, 220], [True, True, False]).range_text(str) == "200.0 to 250.0; others not by 220.0"


def test_ranges_in_words():
    assert told([5, 5]).range_text(str) == "5.0"
    assert told([5, 7]).range_text(str) == "5.0 to 7.0" and told([5, 7]).median_text(str) == "6.0"
    assert told([8, 9], [False, False]).range_text(str) == "> 9.0"


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=12))
def test_the_censored_median_is_where_the_product_of_kaplan_and_meier_falls_below_one_half(rows):
    values, reached = np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows])
    share, half_since, expected = Fraction(1), None, None
    for time in np.unique(values[reached]):
        share *= 1 - Fraction(int((reached & (values == time)).sum()), int((values >= time).sum()))
        if share == Fraction(1, 2) and half_since is None:
            half_since = time
        if share < Fraction(1, 2):
            expected = time if half_since is None else (half_since + time) / 2
            break
    assert statistics.censored_median(values, reached).median == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_definition_rejects(p_values):
    # Holm 1979: in rising order, reject while p(i) <= alpha / (m - i); stop at the first that is not.
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
            if p_values[index] * (len(p_values) - rank) > alpha:
                break
            rejected.add(index)
        assert {index for index, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_the_corrected_interval_of_the_smallest_of_m_is_that_of_bonferroni():
    difference = paired_difference(np.array([1.2, 1.0, 1.1, 1.3]), np.array([1.0, 0.9, 1.0, 1.0]))
    corrected = holm([difference.p, 0.9, 0.95])[0]
    error = difference.std / math.sqrt(4)
    expected = stats.t.interval(1 - 0.05 / 3, 3, difference.mean, error)
    assert corrected_interval(difference, corrected, 3) == pytest.approx(expected)


def test_the_interval_of_an_arm_that_shows_nothing_is_as_wide_as_that_of_bonferroni():
    # p = 0.41 or so: six times that is capped at 1, from which no level can be read.
    difference = paired_difference(np.array([1.2, 1.0, 1.1, 1.3]), np.array([1.0, 1.1, 1.2, 1.1]))
    corrected = holm([difference.p, 0.5, 0.6, 0.7, 0.8, 0.9])[0]
    assert corrected == 1
    expected = stats.t.interval(1 - 0.05 / 6, 3, difference.mean, difference.std / math.sqrt(4))
    assert corrected_interval(difference, corrected, 6) == pytest.approx(expected)


def test_corrected_intervals_of_arms_that_are_equal_contain_zero_together_in_95_of_100_sweeps():
    rng, m, n, sweeps = np.random.default_rng(4), 6, 4, 1500
    together, widths = 0, []
    for _ in range(sweeps):
        differences = [paired_difference(rng.normal(size=n), rng.normal(size=n)) for _ in range(m)]
        corrected = holm([each.p for each in differences])
        found = [corrected_interval(each, p, m) for each, p in zip(differences, corrected, strict=True)]
        together += all(low <= 0 <= high for low, high in found)
        widths += [(high - low) / each.std for each, (low, high) in zip(differences, found, strict=True)]
    # 3 standard deviations of a share of 0.95 in 1500, which is below the true one: m independent tests.
    assert together / sweeps > 0.95 - 3 * math.sqrt(0.95 * 0.05 / sweeps)
    bonferroni = 2 * stats.t.ppf(1 - 0.025 / m, n - 1) / math.sqrt(n)
    assert np.mean(np.isclose(widths, bonferroni)) > 0.98
