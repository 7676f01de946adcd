import math

import pytest

from gpt2lab.record.values import common, flatten, is_number, look_up


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e300, 2**63, -(2**63)])
def test_a_finite_value_is_a_number(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", [1], math.nan, math.inf, -math.inf])
def test_what_is_not_finite_or_not_a_count_is_no_number(value):
    assert not is_number(value)


def test_nested_mappings_become_dotted_keys_and_an_empty_one_is_a_value():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}


def test_a_dotted_path_leads_to_its_value_or_to_nothing():
    assert look_up({"a": {"b": {"c": 1}}}, "a.b.c") == 1
    assert look_up({"a": {"b": 1}}, "a.b.c") is None and look_up(None, "a") is None


def test_what_mappings_share_is_kept_at_any_depth():
    first = {"a": 1, "b": {"c": 2, "d": 3}, "e": {"f": 4}, "g": math.nan, "h": True}
    second = {"a": 1, "b": {"c": 2, "d": 4}, "e": {"f": 5}, "g": math.nan, "h": 1}
    assert repr(common([first, second])) == repr({"a": 1, "b": {"c": 2}, "g": math.nan})
    assert common([first]) is not first and common([{"a": {}}, {"a": {}}]) == {"a": {}} and common([]) == {}
