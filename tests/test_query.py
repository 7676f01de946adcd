"""SQL over the archive: `gpt2lab sql` and `gpt2lab list --where --sort`. It reads, and nothing else."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from gpt2lab.archive import query
from gpt2lab.archive.query import choose, select
from gpt2lab.errors import ConfigError
from gpt2lab.record.rundir import RunDir
from tests.query_archives import listed, rows, write_run_and_sweep, write_runs
from tests.run_records import grokking_rows, text_rows


@pytest.fixture
def archived_runs(tmp_path) -> Path:
    return write_runs(tmp_path / "experiments")


@pytest.fixture(scope="module")
def run_and_sweep(tmp_path_factory) -> Path:
    return write_run_and_sweep(tmp_path_factory.mktemp("experiments"))


def chosen(root: Path, condition: str) -> list[int]:
    return [experiment.number for experiment in choose(listed(root), where=condition)[0]]


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ("val_loss<2", [1, 4]),
        ("val_loss <= 1.8 and seed==1", [1, 4]),
        ("val_loss>2 or data.source='text'", [2, 3]),
        ("not data.source=='pydocs'", [3, 4]),
        ("data.source != 'pydocs'", [3, 4]),
        ("not (seed==2 or status=='failed') and val_loss>-1", [1, 4]),
        ("data = 'equations' AND data.source = 'modular'", [4]),
        ("density.fc1<0.5", [2]),
        ('"density"."fc1" < 0.5 and [seed] = 2', [2]),
        ("number>=3", [3, 4]),
        ("slug='third'", [3]),
        ("val_loss IS NULL", [3]),
        ("delay is not null", [2, 4]),
        ("train.eval_train==false", [2]),
        ("seed=='1'", [1, 3, 4]),
        ("val_loss < '1'", [4]),
        ("density.fc1 > '0.5'", [1, 3, 4]),
        ("seed / 2 = 1 and delay / 8 = 37", [2]),
        ("train.batch_size > '0'", [4]),
        ("train.batch_size > 20", [2, 4]),
        ("train.batch_size=='full'", [4]),
        ("train.batch_size<20", [1, 3]),
        ("val_loss<1e-9", []),
        ("seed in (2, 3) -- all others :)", [2]),
        ("slug <> ':(?@$' and (seed = 2)", [2]),
        ("name LIKE 'f%' and tags LIKE '%\"a\"%'", [1]),
        ("val_loss = (SELECT min(val_loss) FROM experiments)", [4]),
    ],
)
def test_a_condition_chooses_by_results_and_config(archived_runs, condition, numbers):
    assert chosen(archived_runs, condition) == numbers


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("val_los<2", r"there is no column 'val_los'; did you mean val_loss\?"),
        ('"val_los" > 2', r"there is no column 'val_los'; did you mean val_loss\?"),
        ("`val_los` > 2", r"there is no column 'val_los'; did you mean val_loss\?"),
        ("experiments.[val_los] > 2", r"there is no column 'experiments.val_los'; did you mean val_loss\?"),
        ("seed==1 or batch_size==3", r"'batch_size'; did you mean train\.batch_size\?"),
        ("train.batchsize==3", r"'train\.batchsize'; did you mean train\.batch_size\?"),
        ("train==3", r"'train'; did you mean train\.batch_size or train\.eval_train\?"),
        ("zzz==3", "'zzz'; gpt2lab sql --tables lists them"),
        ("data.source==pydocs", r"text is written in single quotes: 'pydocs'"),
        ('data.source=="pydocs"', r"text is written in single quotes: 'pydocs'"),
        ("val_loss==null", "== NULL is true of nothing; write IS NULL"),
        ("1 < val_loss < 2", "write two comparisons"),
        ("", "empty condition"),
        (" \n", "empty condition"),
        ("-- all", "empty condition"),
        ("1) or (1", "a parenthesis is closed that was not opened"),
        ("(seed = 1", "a parenthesis is opened and not closed"),
        ("seed = ?", r"\? marks a parameter, and a query has none; write the value itself"),
        ("name==first light", "syntax error"),
        ("seed = 1; SELECT 1", "syntax error"),
        ("seed = 'x", "a quote is opened and not closed"),
        ('seed = "x', "a quote is opened and not closed"),
        ("seed==1\0", "null character"),
        ("seed = '\ud800'", "surrogates"),
        ("(" * 300 + "seed==1" + ")" * 300, "overflow"),
        ("x" * 20_001, "at most 20,000"),
    ],
)
def test_what_cannot_be_read_or_is_unknown_is_said_in_one_line(archived_runs, condition, message):
    with pytest.raises(ConfigError, match=message) as caught:
        chosen(archived_runs, condition)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--where: ")


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO experiments(number) VALUES (1)",
        "UPDATE experiments SET number = 2",
        "DELETE FROM experiments",
        "WITH x AS (SELECT 1) DELETE FROM experiments",
        "DROP TABLE experiments",
        "CREATE TABLE made(x)",
        "ATTACH 'made' AS x",
        "VACUUM INTO 'made'",
        "PRAGMA query_only = 0",
        "SELECT * FROM pragma_table_info('experiments')",
        "SELECT load_extension('made')",
        "SELECT name FROM sqlite_master",
        *(f"SELECT count(*) FROM {name}" for name in ("sqlite_master", "main.SQLITE_SCHEMA", "sqlite_temp_master")),
        "SELECT count(*) FROM pragma_table_info('experiments')",
        "SELECT count(*) FROM PRAGMA_database_list",
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM sqlite_master)",
        "SELECT count(*) FROM dbstat",
        "EXPLAIN SELECT 1",
        "BEGIN",
        "SELECT 1; DELETE FROM experiments",
        "SELECT 1; SELECT 2",
        "-- nothing",
        "",
    ],
)
def test_a_query_that_does_more_than_read_is_refused(archived_runs, monkeypatch, text):
    monkeypatch.chdir(archived_runs)
    before = sorted(archived_runs.rglob("*"))
    with pytest.raises(ConfigError, match=r"a query that reads|only reading is allowed|one statement"):
        select(listed(archived_runs), text)
    assert sorted(archived_runs.rglob("*")) == before


def test_an_unknown_table_is_told_the_known_ones(archived_runs):
    with pytest.raises(ConfigError, match=r"there is no table 'run'; did you mean runs\?"):
        rows(archived_runs, "SELECT * FROM run")
    with pytest.raises(ConfigError, match="there is no table 'jobs'; gpt2lab sql --tables lists them"):
        rows(archived_runs, 'SELECT * FROM "jobs"')


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5) SELECT count(*) FROM c", [(5,)]),
        ("WITH a AS MATERIALIZED (SELECT number FROM experiments) SELECT count(*) FROM a", [(2,)]),
        (
            "WITH a AS (SELECT number, val_loss FROM experiments UNION SELECT number, val_loss FROM runs) "
            "SELECT count(*) FROM a",
            [(15,)],
        ),
        (
            "WITH a AS (SELECT DISTINCT number n FROM runs) "
            "SELECT e.number FROM experiments e WHERE EXISTS (SELECT 1 FROM a) AND number > 3",
            [(4,)],
        ),
        ("SELECT count(*) FROM EXPERIMENTS", [(2,)]),
    ],
)
def test_tables_that_a_query_makes_can_be_counted(run_and_sweep, text, result):
    assert rows(run_and_sweep, text) == result


def test_the_items_of_a_list_can_be_asked_for(archived_runs):
    assert rows(archived_runs, "SELECT number, value FROM experiments, json_each(tags)") == [(1, "a")]
    assert rows(archived_runs, "SELECT count(*) FROM experiments, json_tree(tags) WHERE number = 1") == [(2,)]


def test_a_column_of_another_table_is_told_apart_from_one_that_there_is_not(archived_runs):
    with pytest.raises(ConfigError, match="no column 'delay' in the table of this query; it is one of experiments"):
        rows(archived_runs, "SELECT delay FROM runs")


ENDLESS = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT"


def test_an_endless_query_is_stopped(archived_runs, monkeypatch):
    monkeypatch.setattr(query, "TIME_LIMIT_S", 0.02)
    for value in ("max(x)", "count(*)"):
        with pytest.raises(ConfigError, match=r"sql: stopped after 0\.02 s"):
            rows(archived_runs, f"{ENDLESS} {value} FROM t")


def test_a_huge_result_is_refused(archived_runs, monkeypatch):
    monkeypatch.setattr(query, "MAX_ROWS", 100)
    assert len(rows(archived_runs, f"{ENDLESS} x FROM t LIMIT 100")) == 100
    with pytest.raises(ConfigError, match="more than 100 rows; add a WHERE, an aggregate or a LIMIT"):
        rows(archived_runs, f"{ENDLESS} x FROM t")
    monkeypatch.setattr(query, "MAX_CHARACTERS", 1000)
    with pytest.raises(ConfigError, match="more than 1,000 characters"):
        rows(archived_runs, "SELECT hex(zeroblob(501))")
    with pytest.raises(ConfigError, match="too big"):
        rows(archived_runs, "SELECT zeroblob(1e9)")


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        ("val_loss", [4, 1, 2, 3]),
        ("-val_loss", [2, 1, 4, 3]),
        ("-number", [4, 3, 2, 1]),
        ("data.source", [4, 1, 2, 3]),
        ("train.batch_size", [1, 3, 2, 4]),
        ("-train.batch_size", [2, 1, 3, 4]),
        ("seed", [1, 3, 4, 2]),
    ],
)
def test_a_list_is_sorted_with_what_is_not_measured_at_the_end(archived_runs, column, numbers):
    assert [experiment.number for experiment in choose(listed(archived_runs), sort=column)[0]] == numbers


@pytest.mark.parametrize("column", ["prime", "number DESC --", "1", ""])
def test_what_is_sorted_by_must_be_a_column(archived_runs, column):
    with pytest.raises(ConfigError, match=f"--sort: there is no column '{column}'"):
        choose(listed(archived_runs), sort=column)


def test_a_damaged_experiment_is_left_out_and_hides_no_other(archived_runs):
    (archived_runs / "00001-first" / "summary.json").write_text("{")
    (archived_runs / "00002-second" / "config.yaml").write_text("a: [")
    assert chosen(archived_runs, "val_loss<2") == [4]
    assert chosen(archived_runs, "seed==1") == [1, 3, 4]
    damage = select(listed(archived_runs), "SELECT seed FROM experiments").damage
    assert [Path(line.split(":")[0]).parent.name for line in damage] == ["00001-first", "00002-second"]
    with pytest.raises(ConfigError, match="'sead'; did you mean seed"):
        chosen(archived_runs, "sead==1")


def test_configs_are_read_only_where_a_query_asks_for_them(archived_runs, monkeypatch):
    read = []
    monkeypatch.setattr(RunDir, "read_config", lambda run: read.append(run.path.name) or {"seed": 1})
    assert chosen(archived_runs, "val_loss < 2 and density.fc1 = 1") == [1, 4] and read == []
    assert chosen(archived_runs, "data IS NULL") == [1, 2, 3] and len(read) == 3  # in one summary only
    read.clear()
    assert chosen(archived_runs, "seed = 1") == [1, 2, 3, 4] and len(read) == 4


def test_an_empty_archive_matches_nothing():
    assert choose([], where="anything==1", sort="anything") == ([], ())


def test_the_jobs_of_a_sweep_are_rows_with_their_own_values(run_and_sweep):
    text = """
        SELECT optim.weight_decay, r.data.train_fraction, count(val_accuracy), round(avg(val_accuracy), 2)
        FROM runs AS r WHERE number = 4 AND status = 'finished' GROUP BY 1, 2 HAVING optim.weight_decay = 1
    """
    result = select(listed(run_and_sweep), text)
    assert result.columns[:2] == ("optim.weight_decay", "data.train_fraction")
    assert [row[:3] for row in result.rows] == [(1.0, 0.3, 3), (1.0, 0.5, 2)]
    states = dict(rows(run_and_sweep, "SELECT run, status FROM runs WHERE status <> 'finished'"))
    assert states == {"4/2": "diverged", "4/7": "interrupted", "4/17": "not started"}


def test_a_run_of_its_own_is_a_run_too_and_the_last_measured_value_counts(run_and_sweep):
    [row] = rows(run_and_sweep, "SELECT run, job, seed, step, val_loss FROM runs WHERE number = 1")
    measured = text_rows(steps=40, eval_every=20)
    assert row[:4] == ("1", None, 9, 40)
    assert row[4] == pytest.approx([each["val_loss"] for each in measured if each.get("val_loss") is not None][-1])
    assert rows(run_and_sweep, "SELECT count(*) FROM runs") == [(19,)]


def test_every_row_of_every_run_can_be_asked_for(run_and_sweep):
    text = """
        SELECT run, min(metrics.step) FROM metrics JOIN runs USING (run)
        WHERE metrics.val_accuracy >= 0.99 AND seed = 1 GROUP BY run
    """
    reached = [row["step"] for row in grokking_rows(generalised=940) if (row.get("val_accuracy") or 0) >= 0.99]
    assert dict(rows(run_and_sweep, text))["4/12"] == reached[0]


def test_a_sweep_as_an_experiment_has_what_its_runs_share(run_and_sweep):
    assert chosen(run_and_sweep, "optim.beta2 = 0.98 and kind = 'sweep'") == [4]
    assert chosen(run_and_sweep, "seed = 9") == [1]


@pytest.mark.parametrize("columns", ["optim.beta2", "*, optim.beta2", "e.kind, optim.beta2"])
def test_a_name_that_two_tables_have_is_ambiguous_without_an_alias(run_and_sweep, columns):
    joined = "FROM experiments e JOIN runs r USING (number) WHERE number = 4 AND r.job = 0"
    with pytest.raises(ConfigError, match=r"sql: ambiguous column name: optim\.beta2"):
        rows(run_and_sweep, f"SELECT {columns} {joined}")
    assert rows(run_and_sweep, f"SELECT e.optim.beta2, r.optim.beta2 {joined}") == [(0.98, 0.98)]


def test_a_star_shows_the_columns_of_the_configs_too(run_and_sweep):
    assert "sparsity" in select(listed(run_and_sweep), "SELECT * FROM experiments").columns
    assert "sparsity" in select(listed(run_and_sweep), "SELECT e.* FROM experiments AS e").columns


def test_the_commands_filter_sort_and_print_json(archived_runs, command):
    root = str(archived_runs)
    out, _ = command("list", "--where", "val_loss<3", "--sort", "-val_loss", "--json", "--root", root)
    assert [json.loads(line)["number"] for line in out.splitlines()] == [2, 1, 4]
    out, _ = command("list", "--where", "seed==2", "--root", root)
    assert "second" in out and "first" not in out
    assert "no experiment matches seed==9 (4 searched)" in command("list", "--where", "seed==9", "--root", root)[0]
    assert command("list", "--where", "seed==9", "--json", "--root", root)[0] == ""
    assert "did you mean seed" in command("list", "--where", "sed==9", "--root", root, expect=2)[1]
    out, _ = command("sql", "SELECT name, val_loss, 9e999 AS x, x'00' AS y FROM experiments", "--json", "--root", root)
    assert json.loads(out.splitlines()[0]) == {"name": "first", "val_loss": 1.8, "x": "inf", "y": "00"}


def test_sql_prints_a_table(archived_runs, command):
    root = str(archived_runs)
    out, _ = command("sql", "SELECT name, val_loss, delay FROM experiments WHERE number > 2", "--root", root)
    assert out.splitlines() == ["name    val_loss  delay", "third          -      -", "fourth       0.3     20"]
    assert command("sql", "SELECT name FROM experiments WHERE 0", "--root", root)[0] == "name\n"
    assert "density.fc1" in command("sql", "--tables", "--root", root)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SELECT nme FROM experiments"], "did you mean name"),
        (["DELETE FROM experiments"], "got 'DELETE'"),
        *(([f"SELECT {mark}"], f"{mark[0]} marks a parameter") for mark in ("?", "?1", ":a", "@a", "$a")),
        (["SELECT 1, 1", "--json"], "several columns are named '1'"),
        (["SELECT 1", "--tables"], "expected one of"),
        ([], "expected one of"),
    ],
)
def test_a_wrong_query_is_one_line_and_exit_code_2(archived_runs, command, words, message):
    out, error = command("sql", *words, "--root", str(archived_runs), expect=2)
    assert out == "" and error.count("\n") == 1 and message in error


def test_sql_names_what_it_could_not_read_and_goes_on(archived_runs, command):
    (archived_runs / "00001-first" / "summary.json").write_text("{")
    out, error = command("sql", "SELECT count(name) FROM experiments", "--root", str(archived_runs))
    assert out.splitlines()[1].strip() == "3" and error.startswith("left out: ") and "summary.json" in error


def test_ctrl_c_ends_a_query_and_is_not_its_time_limit(run_and_sweep):
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        select(listed(run_and_sweep), endless)


def test_a_value_that_no_summary_has_is_null(run_and_sweep):
    assert rows(run_and_sweep, 'SELECT count(*), count("jobs.not started") FROM experiments')[0][1] == 0
    assert chosen(run_and_sweep, "jobs.killed > 0") == []
