"""What settings cost: losses on straight lines and speeds that are constant, every figure is computed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2lab.report.comparison.arms import Run, read_run
from gpt2lab.report.comparison.costs import costs
from tests.run_records import Rows, write_record

FLOP = {"tokens_per_step": 100, "flop_per_token_dense": 1000, "flop_per_token_computed": 600}
OLDER = {"tokens_per_step": 100, "flop_per_token": 1000, "flop_per_token_kept": 600}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Writes a run whose validation loss falls from 5 by `slope` per step, at `ms` per step."""

    def write(slope: float = 0.02, ms: float = 500.0, start: float = 5.0, **provenance: Any) -> Run:
        rows: Rows = [
            {
                "step": step,
                "tokens": 100 * step,
                "val_loss": start - slope * step,
                "elapsed_s": step * ms / 1e3 if step else None,
                "tokens_per_s": 100 / ms * 1e3 if step else None,
            }
            for step in range(0, 101, 10)
        ]
        seed = len(list(tmp_path.iterdir()))
        return read_run(
            write_record(
                tmp_path / f"{seed}",
                rows,
                config={"seed": seed},
                provenance={"model": FLOP} | provenance,
                status={"training_s": 20.0},
            )
        )

    return write


def test_the_target_is_the_lowest_loss_that_every_run_reaches(run: Callable[..., Run]) -> None:
    found = costs([[run(slope=0.04)], [run(slope=0.02, ms=1000.0)]], 0)
    assert found.target == pytest.approx(3) and found.reason is None  # 5 - 0.02 * 100
    fast, slow = found.cells
    assert fast is not None and slow is not None
    assert fast.step is not None and fast.step.mean == pytest.approx(50)
    assert fast.seconds is not None and fast.seconds.mean == pytest.approx(25)
    assert fast.flop_dense is not None and fast.flop_dense.mean == pytest.approx(50 * 100 * 1000)
    assert fast.flop_computed is not None and fast.flop_computed.mean == pytest.approx(50 * 100 * 600)
    assert slow.step is not None and slow.seconds is not None
    assert (slow.step.mean, slow.seconds.mean) == pytest.approx((100, 100))


def test_the_overhead_is_the_additional_time_per_token(run: Callable[..., Run]) -> None:
    found = costs([[run(ms=500.0)], [run(ms=600.0)]], 0)
    base, other = found.cells
    assert base is not None and base.overhead is None
    assert base.tokens_per_s is not None and base.tokens_per_s.mean == pytest.approx(200)
    assert other is not None and other.overhead == pytest.approx(0.2)
    assert other.outside is not None and other.outside.mean == pytest.approx(0.75)  # 20 s of 80 s


def test_speeds_of_other_hardware_are_not_held_to_each_other(run: Callable[..., Run]) -> None:
    found = costs([[run()], [run(platform={"cpu": "another"})], [run(ms=250.0)]], 0)
    base, other, alike = found.cells
    assert other is not None and other.tokens_per_s is not None and other.overhead is None and other.seconds is None
    assert other.step is not None and other.flop_dense is not None  # which no machine decides
    assert base is not None and base.seconds is not None and base.seconds.mean == pytest.approx(50)
    assert alike is not None and alike.seconds is not None and alike.seconds.mean == pytest.approx(25)
    assert found.untimed is not None and found.untimed.startswith("not timed against each other: other hardware (cpu: ")


def test_runs_of_one_cell_on_two_machines_have_no_time(run: Callable[..., Run]) -> None:
    found = costs([[run(), run(platform={"cpu": "another"})], []], 0).cells[0]
    assert found is not None and found.seconds is None and found.step is not None and found.step.n == 2
    assert costs([[run(), run()]], 0).untimed is None


def test_a_machine_that_was_not_equally_busy_times_nothing(run: Callable[..., Run]) -> None:
    uneven = costs([[run(ms=500.0), run(ms=700.0)], [run(ms=600.0), run(ms=600.0)]], 0)
    # ln(7/5) = 0.3365 apart: squares 0.0566 over two degrees of freedom, a spread of 17 %.
    assert uneven.untimed is not None and "spread by 17%" in uneven.untimed
    for cell in uneven.cells:
        assert cell is not None and cell.seconds is None and cell.overhead is None
        assert cell.tokens_per_s is not None and cell.step is not None
    even = costs([[run(ms=500.0), run(ms=530.0)], [run(ms=600.0), run(ms=600.0)]], 0)
    assert even.untimed is None and even.cells[1] is not None
    assert even.cells[1].overhead == pytest.approx((1 / 0.5 + 1 / 0.53) / 2 * 0.6 - 1)


def test_older_records_have_a_dense_figure_and_the_ratio_of_what_was_done_to_it(run: Callable[..., Run]) -> None:
    done = {"model": OLDER | {"work": {"flop_dense": 7000, "flop_done": 2100}}}
    recorded, not_recorded = costs([[run(slope=0.04, **done)], [run(slope=0.02, model=OLDER)]], 0).cells
    assert recorded is not None and recorded.flop_dense is not None and recorded.flop_computed is not None
    assert (recorded.flop_dense.mean, recorded.flop_computed.mean) == pytest.approx((50 * 100 * 1000, 50 * 100 * 300))
    assert not_recorded is not None and not_recorded.flop_dense is not None and not_recorded.flop_computed is None
    assert not_recorded.flop_dense.mean == pytest.approx(100 * 100 * 1000)


def test_the_rule_says_how_far_speeds_of_equal_runs_spread(run: Callable[..., Run]) -> None:
    # ln(1.06) apart: 0.0583 / sqrt(2) over one degree of freedom
    assert "speeds of runs of equal config spread by 4.1%" in costs([[run(ms=500.0), run(ms=530.0)], [run()]], 0).rule
    assert "is not known, as no setting has two" in costs([[run()], [run(ms=450.0)]], 0).rule


def test_a_mean_is_of_all_runs_of_a_cell_or_is_not_told(run: Callable[..., Run]) -> None:
    cell = costs([[run(), run(slope=0.04)]], 0).cells[0]
    assert cell is not None and cell.step is not None and cell.step.n == 2
    assert cell.step.mean == pytest.approx((100 + 50) / 2)
    missing = costs([[run(), run(model=FLOP | {"flop_per_token_dense": None})]], 0).cells[0]
    assert missing is not None and missing.flop_dense is None and missing.flop_computed is not None


def test_without_a_loss_that_all_come_down_to_there_is_no_target(run: Callable[..., Run]) -> None:
    found = costs([[run(start=9.0)], [run(start=5.0)]], 0)  # 9 to 7, 5 to 3
    assert found.target is None and found.reason is not None and found.reason.startswith("no loss that every run")
    assert found.cells[0] is not None and found.cells[0].step is None and found.cells[0].tokens_per_s is not None


def test_cells_without_finished_runs_have_no_costs(run: Callable[..., Run]) -> None:
    assert costs([[], []], 0).cells == (None, None) and costs([[]], 0).reason == "no run finished"
    found = costs([[], [run()]], 0)
    assert found.cells[0] is None and found.cells[1] is not None and found.cells[1].overhead is None
