"""The numbers of a sweep: the comparison of its cells, whatever became of its jobs."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt2lab.errors import ArchiveError
from gpt2lab.record.metrics import MetricsWriter
from gpt2lab.report.comparison.arms import read_run
from gpt2lab.report.comparison.compare import compare, compare_runs
from gpt2lab.report.comparison.sweep_results import read_sweep_results
from tests.run_records import Rows, grokking_rows
from tests.sweep_records import write_banded_sweep, write_grokking_sweep


@pytest.fixture
def banded(tmp_path: Path) -> Path:
    return write_banded_sweep(tmp_path / "banded", widths=(256,))


@pytest.fixture
def grokked(tmp_path: Path) -> Path:
    return write_grokking_sweep(tmp_path / "grokked")


def folders(sweep: Path) -> list[Path]:
    return sorted((sweep / "runs").iterdir(), key=lambda path: int(path.name.partition("-")[0]))


def write_status(run: Path, **changes: Any) -> None:
    path = run / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_plan(sweep: Path, **changes: Any) -> None:
    path = sweep / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_rows(run: Path, rows: Rows) -> None:
    (run / "metrics.csv").unlink()
    with MetricsWriter(run / "metrics.csv") as writer:
        for row in rows:
            writer.append(row)


def change_config(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_every_cell_is_held_to_the_first_by_seed(banded: Path) -> None:
    results = read_sweep_results(banded)
    assert results.counts == {"finished": 12} and results.reason is None and results.notes == ()
    assert results.baseline == 0 and results.comparison is not None and results.no_comparison is None
    assert results.comparison.step == 1000 and not results.comparison.higher_is_better
    base, fc1, fc2, both = results.rows
    assert base is not None and base.difference is None and base.estimate.n == 3
    faded = 1 - math.exp(-1000 / 120)  # how much of its floor a loss of the record shows at step 1000
    for row, distance in ((fc1, 0.02), (fc2, 0.02), (both, 0.04)):
        assert row is not None and row.difference is not None and row.judgement is not None
        assert row.difference.n == 3 and row.difference.mean == pytest.approx(distance * faded)
        assert row.judgement.verdict == "worse"


def test_the_comparison_of_a_sweep_is_the_one_of_its_runs(banded: Path) -> None:
    swept = read_sweep_results(banded).comparison
    # Beside other experiments a run has the name of its sweep before its own; in the sweep's report it has not.
    alone = compare_runs([read_run(folder, folder.name) for folder in folders(banded)])
    assert swept is not None and asdict(swept) == asdict(alone)
    assert compare(folders(banded)).rows[0].experiments[0] == f"banded/{folders(banded)[0].name}"


def test_the_baseline_of_the_plan_is_the_cell_with_its_values(banded: Path) -> None:
    change_plan(banded, baseline={"fc1_band": 256, "fc2_band": 0})
    results = read_sweep_results(banded)
    assert results.baseline == 1 and results.comparison is not None
    assert results.rows[1] is results.comparison.rows[0] and results.rows[1].judgement is None
    dense = results.rows[0]
    assert dense is not None and dense.judgement is not None and dense.judgement.verdict == "better"
    assert read_sweep_results(banded, baseline={"fc2_band": "256"}).baseline == 2  # as a command line gives it


def test_a_number_of_a_baseline_may_be_written_otherwise(grokked: Path) -> None:
    given = {"optim.weight_decay": "3e-1", "data.train_fraction": "0.50", "seed": 3}
    assert read_sweep_results(grokked, baseline=given).baseline == 3
    with pytest.raises(ArchiveError, match=r"is the baseline optim.weight_decay=none"):
        read_sweep_results(grokked, baseline={"optim.weight_decay": "none"})


def test_a_baseline_that_no_cell_is_is_refused(banded: Path) -> None:
    says = r"no cell of this sweep is the baseline fc1_band=7; there are fc1_band=0 fc2_band=0"
    with pytest.raises(ArchiveError, match=says):
        read_sweep_results(banded, baseline={"fc1_band": 7})


def test_jobs_are_counted_by_state_and_those_left_are_named_with_reason(grokked: Path) -> None:
    results = read_sweep_results(grokked)
    assert results.reason == "15 of 18 jobs finished; 1 diverged, 1 interrupted, 1 not started"
    assert list(results.counts) == ["finished", "diverged", "interrupted", "not started"]
    assert [(member.job.number, member.state.reason) for member in results.unfinished] == [
        (2, "loss nan at step 80"),
        (7, "stopped by SIGINT"),
        (17, None),
    ]
    assert sum(len(cell.finished) for cell in results.cells) == 15 and len(results.members) == 18
    assert results.notes == (
        "weight_decay=0 train_fraction=0.3: 2-weight_decay=0.0-train_fraction=0.3-seed=3 diverged, whose "
        "mean is of the runs that did not",
    )


def test_a_setting_with_one_pair_of_runs_gets_no_verdict(grokked: Path) -> None:
    row = read_sweep_results(grokked).rows[2]  # seeds 1 and 3 beside a baseline with seeds 1 and 2
    assert row is not None and row.difference is not None and row.judgement is not None
    assert row.estimate.n == 2 and row.difference.n == 1
    assert row.judgement.verdict == "not distinguishable" and row.judgement.rule.startswith("n = 1")


def test_one_seed_gives_no_verdict_anywhere(banded: Path) -> None:
    plan = json.loads((banded / "sweep.json").read_text())
    change_plan(banded, jobs=[job for job in plan["jobs"] if job["values"]["seed"] == 1])
    results = read_sweep_results(banded)
    verdicts = {row.judgement.verdict for row in results.rows if row is not None and row.judgement is not None}
    assert verdicts == {"not distinguishable"} and results.comparison is not None and results.comparison.floor is None


def test_all_that_the_plan_varies_may_differ_the_data_too(grokked: Path) -> None:
    comparison = read_sweep_results(grokked).comparison
    assert comparison is not None and comparison.apart == () and len(comparison.rows) == 6
    assert any(note.startswith("not the same data, as asked") for note in comparison.notes)


def test_grokking_is_told_per_cell_with_bounds_for_what_never_came(grokked: Path) -> None:
    found = read_sweep_results(grokked).grokking
    assert found is not None and len(found.cells) == 6
    never, quick = found.cells[0], found.cells[3]
    assert never.phases == {"memorised": 2, "diverged": 1} and never.success == 0
    assert never.val is not None and never.val.median is None and never.val.median_beyond == 2000
    assert never.val.range_text(str) == "> 2000.0 to never"  # one of the three diverged
    assert quick.phases == {"delayed": 3} and quick.success == quick.settled == 3
    # Generalised at 1500 - 700 + 40 * seed by the formula, 0.99 of it about 410 steps later, at the next of 50.
    assert quick.val is not None and quick.val.reached == 3 and 1200 <= (quick.val.median or 0) <= 1350


def test_a_sweep_over_text_asks_no_questions(banded: Path) -> None:
    assert read_sweep_results(banded).grokking is None


def test_matched_losses_costs_and_gaps_stand_beside_the_cells(banded: Path) -> None:
    results = read_sweep_results(banded)
    assert len(results.matched.points) == len(results.costs.cells) == len(results.gaps) == len(results.cells) == 4
    assert len(results.matched.targets) == 5 and results.costs.target is not None
    gap = results.gaps[0]
    assert gap.n == 3 and gap.steps[-1] == 1000
    # By the formula 0.15 * (1 - exp(-1000 / 300)), and 0.005 of noise in each loss.
    assert gap.mean[-1] == pytest.approx(0.15 * (1 - math.exp(-1000 / 300)), abs=0.03)


def test_runs_that_stop_when_they_are_there_are_compared_before_the_first_stopped(grokked: Path) -> None:
    for run in folders(grokked):
        change_config(run, lambda config: config["train"].update(stop_when="val_accuracy>=0.99"))
        rows = grokking_rows(steps=2000)
        write_rows(run, rows[: 20 + int(run.name.partition("-")[0])])  # the first ends at step 950
    results = read_sweep_results(grokked)
    assert results.comparison is not None and results.comparison.step == 950
    assert results.notes[:2] == (
        "runs stop when val_accuracy>=0.99: they ended between steps 950 and 1,750",
        "the comparison is at step 950, when none of them had stopped: which one gets there first is told by the steps "
        "to get there, not by these values",
    )


def test_a_rule_to_stop_by_that_stopped_no_run_is_no_note(banded: Path) -> None:
    for run in folders(banded):
        change_config(run, lambda config: config["train"].update(stop_when="val_accuracy>=0.99"))
    assert read_sweep_results(banded).notes == ()


def test_a_sweep_none_of_whose_jobs_finished_says_so(grokked: Path) -> None:
    for run in folders(grokked):
        write_status(run, state="failed", reason="loss nan", exit_code=4)
    results = read_sweep_results(grokked)
    assert results.comparison is None and results.rows == (None,) * 6
    assert results.no_comparison == "no job finished with a record, so there is nothing to compare"
    assert results.matched.reason == results.costs.reason == "no run finished" and not any(map(len, results.gaps))
    assert results.reason == "0 of 18 jobs finished; 17 diverged, 1 not started"


def test_a_sweep_that_has_not_begun_says_so(banded: Path) -> None:
    shutil.rmtree(banded / "runs")
    results = read_sweep_results(banded)
    assert results.counts == {"not started": 12} and results.comparison is None and results.grokking is None
    assert results.notes[0] == "fc1_band=0 fc2_band=0: missing, none of its 3 jobs is finished"


def test_a_baseline_without_a_finished_run_is_named(banded: Path) -> None:
    for run in folders(banded)[:3]:
        write_status(run, state="interrupted", reason="Ctrl-C")
    results = read_sweep_results(banded)
    assert results.no_comparison is not None
    assert results.no_comparison.startswith("the baseline (fc1_band=0 fc2_band=0) has no finished run with val_loss")


@pytest.mark.parametrize(
    ("metric", "says"),
    [("test_loss", "no finished run has a finite test_loss"), ("lr", "lr is not a result; expected one of train_loss")],
)
def test_a_metric_that_was_not_measured_gives_no_comparison(banded: Path, metric: str, says: str) -> None:
    results = read_sweep_results(banded, metric=metric)
    assert results.comparison is None and (results.no_comparison or "").startswith(says)
    assert results.matched.targets  # the rest is there all the same


def test_a_sweep_of_one_setting_has_one_row(banded: Path) -> None:
    plan = json.loads((banded / "sweep.json").read_text())
    jobs = [job | {"values": {"seed": job["values"]["seed"]}} for job in plan["jobs"][:3]]
    change_plan(banded, jobs=jobs, varies=["seed"])
    results = read_sweep_results(banded)
    assert [cell.label for cell in results.cells] == ["all runs"]
    assert results.comparison is not None and len(results.comparison.rows) == 1


def test_a_cell_of_other_code_stands_apart(banded: Path) -> None:
    for run in folders(banded)[3:6]:
        path = run / "provenance.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"code_hash": "99" * 32}))
    results = read_sweep_results(banded)
    assert results.rows[1] is None and results.rows[2] is not None and results.comparison is not None
    (names, reasons), *others = results.comparison.apart
    assert "3-fc1_band=256" in names and "not the same code" in reasons[0] and not others


def test_reading_twice_gives_the_same_numbers(grokked: Path) -> None:
    one, other = read_sweep_results(grokked), read_sweep_results(grokked)
    assert one.comparison == other.comparison and one.costs == other.costs
    assert one.matched == other.matched and one.grokking == other.grokking


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("data", "name", "text"),
        ("data", "tokenizer", "gpt2"),
        ("data", "vocab_size", 50257),
        ("model", "counted_positions", [4]),
    ],
)
def test_a_cell_of_other_tokens_has_a_mean_and_no_verdict(banded: Path, part: str, key: str, value: Any) -> None:
    for run in folders(banded)[3:6]:
        path = run / "provenance.json"
        provenance = json.loads(path.read_text())
        provenance[part][key] = value
        path.write_text(json.dumps(provenance))
        change_config(run, lambda config: config["data"].update(name="text"))  # or it stands apart altogether
    results = read_sweep_results(banded)
    _, other, alike, _ = results.rows
    assert other is not None and other.estimate.n == 3 and other.difference is None and other.corrected_p is None
    assert other.judgement is not None and other.judgement.verdict == "not compared"
    assert other.judgement.rule.startswith(f"other tokens ({key}: ")
    assert alike is not None and alike.judgement is not None and alike.judgement.verdict == "worse"
    assert results.comparison is not None and results.comparison.comparisons == 2
    assert results.comparison.floor is not None and results.comparison.floor.runs == 9  # not the three of other tokens
    assert results.costs.cells[1] is None and results.matched.points[1] == (None,) * 5 and not len(results.gaps[1])
    assert any("not compared, other tokens" in note for note in results.notes)


def test_another_train_fraction_is_compared_and_noted(grokked: Path) -> None:
    results = read_sweep_results(grokked)
    row = results.rows[1]
    assert row is not None and row.comparable and row.difference is not None
    assert results.comparison is not None and any("train_fraction" in note for note in results.comparison.notes)
