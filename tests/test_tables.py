"""The columns of the tables that SQL reads: which names they have, what they hold, and what they are of."""

import json
from pathlib import Path

import pytest

from gpt2lab.archive import query
from gpt2lab.archive.query import describe, select
from gpt2lab.errors import ConfigError
from tests.query_archives import RESULTS, listed, rows, write_run_and_sweep, write_runs


@pytest.fixture
def archived_runs(tmp_path) -> Path:
    return write_runs(tmp_path / "experiments")


@pytest.fixture(scope="module")
def run_and_sweep(tmp_path_factory) -> Path:
    return write_run_and_sweep(tmp_path_factory.mktemp("experiments"))


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"rowid": 1, "oid": 2}, None),
        ({"_rowid_": 1}, "'_rowid_' is no column name"),
        ({"a\0b": 1}, r"'a\x00b' is no column name"),
        ({"number": 9}, "number is the name of another column"),
        ({"seed": 2**63}, "seed is a whole number beyond 64 bits"),
        ({"VAL_LOSS": 0.0}, "there are two val_loss, which differ in case only"),
        ({f"key{n}": n for n in range(3000)}, "names, at most 300 become columns"),
    ],
)
def test_names_in_one_summary_spoil_no_query_over_the_others(archived_runs, command, added, message):
    path = archived_runs / "00001-first" / "summary.json"
    path.write_text(json.dumps(RESULTS[0] | added))
    words = ["list", "--where", "val_loss < 2", "--sort", "-val_loss", "--json", "--root", str(archived_runs)]
    out, error = command(*words)
    assert [json.loads(line)["number"] for line in out.splitlines()] == ([4] if message else [1, 4])
    assert error == "" if message is None else error.startswith(f"left out: {path}: ") and message in error
    assert rows(archived_runs, "SELECT max(number) FROM experiments") == [(4,)]


def test_more_columns_than_sqlite_has_are_refused_only_where_all_are_asked_for(archived_runs, monkeypatch):
    monkeypatch.setattr(query, "MAX_COLUMNS", 10)
    assert rows(archived_runs, "SELECT name FROM experiments WHERE seed = 2") == [("second",)]
    with pytest.raises(ConfigError, match=r"experiments has \d\d columns, at most 10 are read; name columns instead"):
        rows(archived_runs, "SELECT * FROM experiments")


def test_a_natural_join_is_by_all_columns_that_two_tables_share(run_and_sweep):
    assert rows(run_and_sweep, "SELECT count(*) FROM experiments NATURAL JOIN runs") == [(0,)]


@pytest.mark.parametrize("name", ["run", "number", "job", "seed", "name", "status", "label", "SEED"])
def test_a_metric_with_the_name_of_a_setting_leaves_the_identity_of_a_run_as_it_is(tmp_path, name):
    root = write_run_and_sweep(tmp_path)
    metrics = root / "00001-alone" / "metrics.csv"
    metrics.write_text(f"step,{name}\n0,77\n")
    result = select(listed(root), "SELECT run, number, job, label, status, seed, name FROM runs WHERE number = 1")
    assert result.rows == [("1", 1, None, None, "finished", None, None)]  # config and metrics are left out, and named
    assert result.damage == (f"{metrics}: {name.lower()} is the name of another column of the same run or experiment",)
    assert rows(root, "SELECT count(*) FROM metrics WHERE number = 1") == [(0,)]


def test_names_are_compared_without_case(run_and_sweep, tmp_path):
    root = write_run_and_sweep(tmp_path)
    metrics = root / "00001-alone" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("val_loss", "Val_Loss", 1))
    text = "SELECT run, step, VAL_LOSS FROM metrics WHERE number IN (1, 4) AND val_loss IS NOT NULL"
    assert rows(root, text) == rows(run_and_sweep, text)


def test_the_columns_are_listed_with_an_example(run_and_sweep):
    described = {row[:2]: row[2:4] for row in describe(listed(run_and_sweep)).rows}
    assert described["experiments", "name"] == (2, "grokking")
    assert described["runs", "optim.weight_decay"][0] == 18
    assert described["metrics", "val_accuracy"][0] > 100
    assert described["runs", "train.eval_train"][1] is not True and described["runs", "train.eval_train"][1] == 1


def test_a_number_keeps_the_value_and_the_division_of_its_column(archived_runs):
    assert rows(archived_runs, "SELECT seed / 2, density.fc1 / 2, typeof(density.fc1) FROM experiments LIMIT 1") == [
        (0, 0.5, "real")
    ]
