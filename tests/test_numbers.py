"""Numbers are never rounded to a limit they did not reach, and always readable."""

import pytest

from gpt2lab.report import numbers


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (numbers.count, 1_234_567, "1,234,567"),
        (numbers.compact, 4_096_000, "4.10 million"),
        (numbers.compact, 327_680, "327,680"),
        (numbers.compact, 2.5e9, "2.50 billion"),
        (numbers.loss, 1.62034, "1.6203"),
        (numbers.loss, 0.000213, "2.1e-4"),
        (numbers.loss, 0.0, "0"),
        (numbers.share, 1.0, "1.0000"),
        (numbers.share, 0.99999, "0.9999"),
        (numbers.percent, 1.0, "100 %"),
        (numbers.percent, 0.999999, "99.99 %"),
        (numbers.percent, 0.4390, "43.90 %"),
        (numbers.rounded, 68_493.2, "68,500"),
        (numbers.rounded, 0.09996, "0.100"),
        (numbers.rounded, 9.996, "10.0"),
        (numbers.rounded, 0.000411, "4.11e-4"),
        (numbers.rounded, 1.2e9, "1.20e9"),
        (numbers.rounded, 0, "0"),
        (numbers.setting, 0.001, "0.001"),
        (numbers.setting, 1e-8, "1e-08"),
        (numbers.setting, 1000, "1,000"),
        (numbers.duration, 8.314, "8.31 s"),
        (numbers.duration, 725.2, "12 min 05 s"),
        (numbers.duration, 12_000, "3 h 20 min"),
        (numbers.loss, None, "–"),
    ],
)
def test_a_number_is_written_with_the_digits_that_mean_something(show, value: float | None, text: str) -> None:
    assert show(value) == text
