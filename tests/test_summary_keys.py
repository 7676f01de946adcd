"""Each value of summary.json that is a column of SQL has its unit and meaning in one table."""

from pathlib import Path

import pytest

from gpt2lab.archive import list_experiments, read_summary
from gpt2lab.archive.query import describe
from gpt2lab.archive.summary_keys import SUMMARY_KEYS
from gpt2lab.archive.tables import flat
from gpt2lab.record.columns import COLUMNS
from gpt2lab.report import write_report
from tests.run_records import write_text_run
from tests.sweep_records import write_grokking_sweep

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
NAMES = set(SUMMARY_KEYS)


def columns(directory: Path) -> set[str]:
    return set(flat(directory / "summary.json", read_summary(directory), ()))


def test_every_key_of_a_committed_summary_has_a_meaning():
    found = {name for experiment in list_experiments(EXPERIMENTS) for name in columns(experiment.path)}
    assert found and found - NAMES == set()


@pytest.mark.parametrize("write", [write_text_run, write_grokking_sweep])
def test_every_key_of_a_summary_of_today_has_a_meaning(tmp_path, write):
    directory = write(tmp_path / "record")
    write_report(directory, "record")
    assert columns(directory) - NAMES == set()


def test_no_meaning_is_of_a_key_that_no_summary_has(tmp_path):
    run, sweep = write_text_run(tmp_path / "run"), write_grokking_sweep(tmp_path / "sweep")
    for directory in (run, sweep):
        write_report(directory, "record")
    assert {name for name in NAMES - columns(run) - columns(sweep) if not name.startswith("jobs.")} == {"density"}


def test_the_meanings_are_short_and_listed_with_the_tables():
    metrics = {column.name for column in COLUMNS}
    assert all(
        len(meaning) <= 60 for name, (_, meaning) in SUMMARY_KEYS.items() if name not in metrics
    )  # a terminal shows no more
    described = {row[:2]: row[4:] for row in describe(list_experiments(EXPERIMENTS)).rows}
    assert described["experiments", "delay"] == ("updates", "steps_to_val_accuracy minus steps_to_train_accuracy")
    assert described["runs", "run"] == (None, "4, or 4/12 for job 12 of a sweep")
    assert described["runs", "val_loss"] == ("nats per counted token", "loss on the validation split")
    assert described["runs", "optim.weight_decay"] == (None, None)
