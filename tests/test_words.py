"""Small wordings of comparison pages: accuracies, signs, sentences."""

from gpt2lab.report.comparison.statistics import Estimate
from gpt2lab.report.comparison_page.words import (
    interval_of,
    interval_words,
    mean_std_of,
    sentence,
    signed,
    signed_percent,
)

NEARLY_ONE = Estimate(n=3, mean=0.99999, std=1.2e-9, interval=(0.98, 1.02))


def test_an_accuracy_is_never_rounded_to_one_and_its_interval_ends_there() -> None:
    assert mean_std_of("val_accuracy", NEARLY_ONE).replace("\u00a0", " ").endswith("0.0001")
    assert mean_std_of("val_accuracy", NEARLY_ONE).startswith("0.9999 ±")
    assert interval_of("val_accuracy", (-0.02, 1.02)).replace("\u00a0", " ") == "0.0000 to 1.0000"


def test_the_interval_of_a_loss_begins_at_zero_and_the_caption_says_so() -> None:
    assert interval_of("val_loss", (-0.02, 1.02)).replace("\u00a0", " ") == "0 to 1.0200"
    assert "truncated at 0" in interval_words("val_loss", [None, (0.1, 0.2), (-0.02, 1.02)])
    assert "truncated" not in interval_words("val_loss", [None, (0.1, 0.2)])
    assert "truncated at 0 and 1" in interval_words("val_accuracy", [(0.9, 1.1)])
    assert "truncated" not in interval_words("lr", [(-0.1, 1.1)])


def test_differences_have_the_sign_of_minus() -> None:
    assert [signed(value) for value in (-0.03, 0.0, -250.0, -0.0002)] == ["−0.0300", "+0.0000", "−250", "−2.0e-4"]
    assert [signed_percent(value) for value in (-0.031, -0.0001)] == ["−3.1 %", "0.0 %"]


def test_a_sentence_of_nothing_is_nothing() -> None:
    assert (sentence("no overlap"), sentence("")) == ("No overlap.", "")
