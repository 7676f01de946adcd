"""Small wordings of comparison pages: accuracies, signs, sentences."""

from gpt2lab.report.comparison.statistics import Estimate
from gpt2lab.report.comparison_page.words import interval_of, mean_std_of, sentence, signed, signed_percent

NEARLY_ONE = Estimate(n=3, mean=0.99999, std=1.2e-9, interval=(0.98, 1.02))


def test_an_accuracy_is_never_rounded_to_one_and_its_interval_ends_there() -> None:
    assert mean_std_of("val_accuracy", NEARLY_ONE).replace("\u00a0", " ").endswith("0.0001")
    assert mean_std_of("val_accuracy", NEARLY_ONE).startswith("0.9999 ±")
    assert interval_of("val_accuracy", (-0.02, 1.02)).replace("\u00a0", " ") == "0.0000 to 1.0000"
    assert interval_of("val_loss", (-0.02, 1.02)).replace("\u00a0", " ") == "-0.0200 to 1.0200"


def test_differences_have_the_sign_of_minus() -> None:
    assert [signed(value) for value in (-0.03, 0.0, -250.0, -0.0002)] == ["−0.0300", "+0.0000", "−250", "−2.0e-4"]
    assert [signed_percent(value) for value in (-0.031, -0.0001)] == ["−3.1 %", "0.0 %"]


def test_a_sentence_of_nothing_is_nothing() -> None:
    assert (sentence("no overlap"), sentence("")) == ("No overlap.", "")
