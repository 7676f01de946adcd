import math

import pytest

from gpt2lab.record.values import flatten, is_number


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e300, 2**63, -(2**63)])
def test_a_finite_value_is_a_number(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", [1], math.nan, math.inf, -math.inf, 2**63 + 1, -(10**400)])
def test_what_cannot_be_reckoned_with_is_no_number(value):
    assert not is_number(value)


def test_nested_mappings_become_dotted_keys_and_an_empty_one_is_a_value():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}
