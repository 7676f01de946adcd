"""Grokking: what became of a run, what a setting makes of its runs, and what is said of runs that never got there."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gpt2lab.report.comparison.grokking import (
    LOST_BELOW,
    PHASES,
    RULE,
    GrokkingRun,
    Phase,
    classify,
    grokking,
    grokking_cell,
    has_answers,
    known_bounds,
    read_grokking,
)
from gpt2lab.report.inputs import Curve, read_inputs
from tests.run_records import EQUATIONS, grokking_rows, text_rows, write_grokking_run, write_record, write_text_run


def accuracy(*values: float) -> Curve:
    return Curve(100 * np.arange(len(values)), np.array(values))


FITTED_AT_100 = accuracy(0, 1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("train", "val", "phase"),
    [
        (FITTED_AT_100, accuracy(0, 0, 0.5, 0.98, 0.98, 0.98), "memorised"),
        (FITTED_AT_100, accuracy(0, 0, 0.99, 1, 1, 1), "delayed"),  # 200 is twice 100
        (accuracy(0, 0, 1, 1, 1, 1), accuracy(0, 0, 0, 0.99, 1, 1), "generalised at once"),  # 300 is not twice 200
        (FITTED_AT_100, accuracy(0, 1, 1, 1, 1, 1), "generalised at once"),
        (accuracy(0, 0.5, 0.9), accuracy(0, 0.5, 0.99), "generalised at once"),
        (FITTED_AT_100, accuracy(0, 0, 1, 0.89, 1, 1), "oscillating"),
        (FITTED_AT_100, accuracy(0, 0, 0, 0, 1, 0.2), "oscillating"),
        (FITTED_AT_100, accuracy(0, 0, 1, LOST_BELOW, 0.95, 0.95), "delayed"),  # lower, and not lost
        (accuracy(0, 0.98), accuracy(0, 0.2), "not learned"),
        (accuracy(0, 1), accuracy(), "memorised"),
        (accuracy(), accuracy(), "not learned"),
    ],
)
def test_the_phase_of_a_run_follows_the_rule(train: Curve, val: Curve, phase: Phase) -> None:
    assert classify(train, val) == phase


def test_a_run_that_diverged_is_diverged_whatever_it_had_reached() -> None:
    assert classify(FITTED_AT_100, FITTED_AT_100, diverged=True) == "diverged"


def test_the_rule_names_every_phase_and_every_number() -> None:
    assert all(phase in RULE.lower() for phase in PHASES)
    assert "0.99" in RULE and f"{LOST_BELOW:g}" in RULE and " 2 times " in RULE


def test_a_run_is_read_with_its_steps_delay_and_ratio(tmp_path: Path) -> None:
    inputs = read_inputs(write_grokking_run(tmp_path / "run"))
    run = read_grokking(inputs, "finished")
    # From the formulas of the record: training above 0.99 from 250 on, validation from 1750 on (rows every 50).
    train = next(row["step"] for row in inputs.rows if row["train_accuracy"] >= 0.99)
    val = next(row["step"] for row in inputs.rows if row["val_accuracy"] >= 0.99)
    assert (run.train_step, run.val_step, run.delay) == (train, val, val - train)
    assert run.ratio == val / train and run.phase == "delayed"
    assert (run.val_step, run.last_step) == (val, 2000)


def test_a_run_that_never_got_there_took_more_than_its_steps(tmp_path: Path) -> None:
    rows = grokking_rows(generalised=9000)
    inputs = read_inputs(write_record(tmp_path / "run", rows, provenance=EQUATIONS))
    run = read_grokking(inputs, "finished")
    assert (
        run.val_step is None
        and run.last_step == 2000
        and run.delay is None
        and run.ratio is None
        and run.phase == "memorised"
    )


def test_what_an_unfinished_run_would_have_become_is_open(tmp_path: Path) -> None:
    inputs = read_inputs(write_record(tmp_path / "run", grokking_rows()[:9], provenance=EQUATIONS))
    run = read_grokking(inputs, "interrupted")
    assert run.phase is None and run.val_step is None


def runs(*ends: tuple[int | None, int | None, str]) -> Sequence[GrokkingRun]:
    def phase(train: int | None, val: int | None, state: str) -> Phase | None:
        if state != "finished":
            return "diverged" if state == "diverged" else None
        return "delayed" if val else "memorised" if train else "not learned"

    return [
        GrokkingRun(
            last_step=80 if state == "diverged" else 2000,
            train_step=train,
            val_step=val,
            phase=phase(train, val, state),
        )
        for train, val, state in ends
    ]


def test_a_setting_counts_successes_among_runs_that_had_their_chance() -> None:
    cell = grokking_cell(
        runs((100, 900, "finished"), (100, None, "finished"), (None, None, "diverged"), (200, 500, "interrupted"))
    )
    assert (cell.success, cell.settled) == (1, 3)
    assert cell.phases == {"memorised": 1, "delayed": 1, "diverged": 1}


def test_the_median_is_beyond_the_last_step_when_half_of_the_runs_never_got_there() -> None:
    cell = grokking_cell(runs((100, 900, "finished"), (100, None, "finished")))
    assert cell.val is not None and cell.val.median is None and cell.val.beyond == 2000
    assert cell.train is not None and cell.train.median == 100
    assert cell.delay is not None and cell.delay.median is None and cell.delay.beyond == 1900
    assert cell.ratio is not None and (cell.ratio.low, cell.ratio.beyond) == (9, 20)


def test_a_run_that_diverged_early_does_not_pull_the_median_down() -> None:
    cell = grokking_cell(runs((100, 900, "finished"), (100, 1100, "finished"), (None, None, "diverged")))
    assert cell.val is not None and cell.val.median == 1100


def test_a_delay_is_only_of_runs_that_fitted() -> None:
    cell = grokking_cell(runs((None, None, "finished"), (None, 500, "finished")))
    assert cell.delay is None and cell.ratio is None and cell.train is not None and cell.train.reached == 0


def test_a_setting_without_runs_says_nothing() -> None:
    cell = grokking_cell([])
    assert cell.val is None and cell.settled == 0 and cell.phases == {}


def test_only_runs_that_answer_questions_are_looked_at(tmp_path: Path) -> None:
    text, equations = (
        read_inputs(write(tmp_path / name)) for name, write in (("text", write_text_run), ("grok", write_grokking_run))
    )
    assert has_answers(equations) and not has_answers(text)
    assert grokking([[(text, "finished")]]) is None and grokking([[], []]) is None
    rows = {"data": {"row_len": 8}, "model": {"counted_positions": None}}
    assert has_answers(read_inputs(write_record(tmp_path / "rows", grokking_rows(), provenance=rows)))
    without = [{key: value for key, value in row.items() if "accuracy" not in key} for row in text_rows(steps=20)]
    assert not has_answers(read_inputs(write_record(tmp_path / "none", without, provenance=EQUATIONS)))


def test_the_known_bounds_are_those_of_the_record_lowest_first(tmp_path: Path) -> None:
    config = {"data": {"prime": 59}}
    inputs = read_inputs(write_record(tmp_path / "run", grokking_rows(), config=config, provenance=EQUATIONS))
    assert known_bounds(inputs) == (
        ("best reachable loss", 0.0),
        ("ln 59, a uniform guess among the answers", math.log(59)),
        ("random guess over the vocabulary", math.log(67)),
    )


def test_any_source_that_states_its_answer_choices_gets_their_bound(tmp_path: Path) -> None:
    data = EQUATIONS["data"] | {"name": "new", "answer_choices": 5}
    inputs = read_inputs(write_record(tmp_path / "run", grokking_rows(), provenance=EQUATIONS | {"data": data}))
    assert ("ln 5, a uniform guess among the answers", math.log(5)) in known_bounds(inputs)


def test_a_bound_that_differs_between_runs_is_not_named(tmp_path: Path) -> None:
    one, other = (
        read_inputs(
            write_record(tmp_path / f"{p}", grokking_rows(), config={"data": {"prime": p}}, provenance=EQUATIONS)
        )
        for p in (59, 61)
    )
    found = grokking([[(one, "finished")], [(other, "finished")]])
    assert found is not None
    assert [name for name, _ in found.bounds] == ["best reachable loss", "random guess over the vocabulary"]
