"""Validation loss at equal training loss: straight lines, so that every crossing is computed by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2lab.report.comparison.arms import Run, read_run
from gpt2lab.report.comparison.matched_loss import matched_loss
from tests.run_records import Rows, write_record

Line = tuple[float, float]  # value at step 0, change per step


def rows(train: Line, val: Line, *, steps: int = 100, every: int = 10, column: str = "train_eval_loss") -> Rows:
    return [
        {
            "step": step,
            "tokens": 10 * step,
            column: train[0] + train[1] * step,
            "val_loss": val[0] + val[1] * step,
        }
        for step in range(0, steps + 1, every)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    def write(measured: Rows, seed: int = 0) -> Run:
        name = f"{len(list(tmp_path.iterdir()))}"
        return read_run(write_record(tmp_path / name, measured, config={"seed": seed}))

    return write


def test_runs_are_read_where_their_training_losses_are_equal(run: Callable[..., Run]) -> None:
    fast = run(rows((5.0, -0.04), (5.0, -0.02)))  # training 5 to 1
    slow = run(rows((5.0, -0.02), (5.0, -0.015)))  # training 5 to 3
    found = matched_loss([[fast], [slow]], 0)
    assert found.train_metric == "train_eval_loss" and found.reason is None
    # Both pass 3 to 5: targets at 1/2, 1/4, 1/8, 1/16 and 0 of the way up from 3.
    assert found.targets == pytest.approx((4, 3.5, 3.25, 3.125, 3))
    first, last = found.points[1][0], found.points[1][-1]
    assert first is not None and last is not None
    assert (first.step.mean, last.step.mean) == pytest.approx((50, 100))
    assert (first.val.mean, last.val.mean) == pytest.approx((4.25, 3.5))
    # The fast one is at 4 at step 25 (validation 4.5), at 3 at step 50 (validation 4).
    assert first.difference is not None and last.difference is not None
    assert (first.difference.mean, last.difference.mean) == pytest.approx((-0.25, -0.5))
    assert found.points[0][0] is not None and found.points[0][0].difference is None


def test_differences_are_paired_by_seed(run: Callable[..., Run]) -> None:
    train = (5.0, -0.04)
    baseline = [run(rows(train, (5 + seed, -0.01)), seed) for seed in (1, 2)]
    other = [run(rows(train, (5.5 + seed, -0.01)), seed) for seed in (2, 3)]
    point = matched_loss([baseline, other], 0).points[1][0]
    assert point is not None and point.difference is not None
    assert point.val.n == 2 and point.difference.n == 1 and point.difference.mean == pytest.approx(0.5)


def test_training_losses_that_do_not_overlap_are_a_result_without_targets(run: Callable[..., Run]) -> None:
    high, low = run(rows((5.0, -0.01), (5.0, 0.0))), run(rows((3.0, -0.01), (5.0, 0.0)))
    found = matched_loss([[high], [low]], 0)
    assert found.targets == () and found.points == ((), ())
    assert found.reason == "no overlap: the training losses of all 2 runs have no value in common"


def test_a_spike_does_not_count_as_having_been_there(run: Callable[..., Run]) -> None:
    spiked = rows((5.0, -0.02), (5.0, -0.01))
    spiked[5]["train_eval_loss"] = 1.0  # one measurement far below the line, at step 50
    point = matched_loss([[run(spiked)]], 0).points[0][-1]
    assert point is not None and point.step.mean == pytest.approx(100)


def test_a_loss_that_rises_first_is_no_target_above_where_it_began(run: Callable[..., Run]) -> None:
    rising = rows((5.0, -0.02), (5.0, -0.01))
    for row, loss in zip(rising[:5], (5.0, 6.0, 6.5, 6.5, 6.0), strict=True):
        row["train_eval_loss"] = loss
    assert matched_loss([[run(rising)]], 0).targets == pytest.approx((4, 3.5, 3.25, 3.125, 3))  # of 3 to 5


def test_the_loss_of_the_batches_stands_in_where_the_training_split_was_not_evaluated(run: Callable[..., Run]) -> None:
    found = matched_loss([[run(rows((5.0, -0.02), (5.0, -0.01), column="train_loss"))]], 0)
    assert found.train_metric == "train_loss" and "train_loss" in found.rule and len(found.targets) == 5


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        (rows((5.0, -0.02), (5.0, -0.01), steps=10), "fewer than 3 measurements of train_loss"),
        ([row | {"val_loss": None} for row in rows((5.0, -0.02), (5.0, -0.01))], "has no val_loss"),
    ],
)
def test_what_is_missing_is_named(run: Callable[..., Run], measured: Rows, says: str) -> None:
    found = matched_loss([[run(measured)]], 0)
    assert found.targets == () and found.reason is not None and found.reason.endswith(says)


def test_a_validation_loss_measured_at_other_times_gives_no_targets(run: Callable[..., Run]) -> None:
    measured = [row | {"val_loss": None} for row in rows((5.0, -0.02), (5.0, 0.0))]
    measured.append({"step": 200, "tokens": 2000, "val_loss": 3.0})
    found = matched_loss([[run(measured)]], 0)
    assert found.reason == "train_eval_loss and val_loss were not measured over the same steps"


def test_cells_without_a_finished_run_have_no_points(run: Callable[..., Run]) -> None:
    found = matched_loss([[run(rows((5.0, -0.02), (5.0, -0.01)))], []], 0)
    assert found.points[1] == (None,) * 5
    empty = matched_loss([[], []], 0)
    assert empty.reason == "no run finished" and empty.points == ((), ())
