import pytest

from gpt2lab.schema import OptimConfig, ScheduleConfig, ScheduleName
from gpt2lab.train.schedule import depends_on_max_steps, learning_rate

OPTIM = OptimConfig(learning_rate=0.5)


def rate(step: int, *, max_steps: int = 100, **schedule) -> float:
    return learning_rate(step, max_steps=max_steps, optim=OPTIM, schedule=ScheduleConfig(**schedule))


def test_warmup_rises_in_equal_steps_to_the_peak():
    rates = [rate(step, warmup_steps=4) for step in range(6)]
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_constant_stays():
    assert {rate(step) for step in (0, 50, 99, 1000)} == {0.5}


def test_cosine_falls_from_the_peak_through_the_middle_to_its_last_share():
    settings = {"name": ScheduleName.cosine, "final_lr_fraction": 0.2, "warmup_steps": 10}
    assert rate(10, **settings) == 0.5
    assert rate(55, **settings) == pytest.approx((0.5 + 0.1) / 2)
    assert rate(100, **settings) == pytest.approx(0.1)
    assert rate(500, **settings) == pytest.approx(0.1)
    rates = [rate(step, **settings) for step in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


def test_wsd_is_flat_and_then_falls_in_a_line():
    settings = {"name": ScheduleName.wsd, "final_lr_fraction": 0.0, "decay_fraction": 0.25}
    assert [rate(step, **settings) for step in (0, 40, 75)] == [0.5, 0.5, 0.5]
    assert rate(80, **settings) == pytest.approx(0.5 * 20 / 25)
    assert rate(100, **settings) == 0.0


def test_a_run_shorter_than_its_warmup_still_rises():
    assert rate(0, max_steps=2, name=ScheduleName.cosine, warmup_steps=50) == pytest.approx(0.01)


def test_only_constant_ignores_how_long_the_run_is():
    assert [name.name for name in ScheduleName if not depends_on_max_steps(ScheduleConfig(name=name))] == ["constant"]
