"""What a person names: an experiment, one run of a sweep, all runs of a sweep."""

import json
import shutil
from pathlib import Path

import pytest

from gpt2lab.archive import expand, resolve, resolve_experiment, resolve_run
from gpt2lab.errors import ArchiveError
from tests.archived_sweeps import archive, copy
from tests.sweep_records import write_grokking_sweep

SECOND = "2-weight_decay=0.0-train_fraction=0.3-seed=3"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An archive of a run, 1, and a sweep of eighteen jobs, 2, of which job 17 never began."""
    root = tmp_path_factory.mktemp("made") / "experiments"
    sweep = write_grokking_sweep(root.parent / "sweep")
    archive(sweep, root, name="single", force=True)
    archive(sweep, root, name="grid", force=True)
    shutil.rmtree(root / "00001-single" / "runs")
    (root / "00001-single" / "sweep.json").unlink()
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    copy(made, tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    return Path("experiments")


@pytest.mark.parametrize(
    "ref",
    [
        "2/2",
        "00002/2",
        "grid/2",
        "00002-grid/2",
        "00002-grid/02",
        f"2/{SECOND}",
        f"00002-grid/runs/{SECOND}",
        f"experiments/00002-grid/runs/{SECOND}/",
    ],
)
def test_a_run_of_a_sweep_is_named_by_its_job(root, ref):
    assert resolve(root, ref) == resolve_run(root, ref) == root / "00002-grid" / "runs" / SECOND
    assert expand(root, ref) == [root / "00002-grid" / "runs" / SECOND]


def test_a_sweep_stands_for_its_runs_that_left_a_record_in_the_order_of_the_plan(root):
    runs = expand(root, "2")
    assert [int(path.name.partition("-")[0]) for path in runs] == list(range(17))
    (runs[3] / "metrics.csv").unlink()
    assert runs[3] not in expand(root, "2")


def test_a_single_run_stands_for_itself(root):
    single = root / "00001-single"
    assert expand(root, "1") == [single]
    assert resolve(root, "1") == resolve_run(root, "single") == resolve_experiment(root, "1") == single


def test_a_whole_sweep_where_one_run_is_expected_names_its_jobs(root):
    with pytest.raises(
        ArchiveError, match=rf"00002-grid is a sweep of 18 runs, expected one of them, 2/JOB: .*{SECOND}"
    ):
        resolve_run(root, "2")


def test_one_run_where_a_whole_experiment_is_expected_says_how_to_name_it(root):
    with pytest.raises(ArchiveError, match=r"'2/3' is one run of the sweep 00002-grid, expected a whole experiment"):
        resolve_experiment(root, "2/3")


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("2/18", "00002-grid has no job '18'; there are 0-weight_decay"),
        ("2/-1", "has no job '-1'"),
        ("2/²", "has no job '²'"),
        ("2/..", "has no job '..'"),
        ("2/runs", "has no job 'runs'"),
        ("2/17", "job 17 .* left nothing: it never began"),
        ("1/3", "00001-single is a single run, it has no jobs"),
        ("3/1", "'3/1' names no experiment of experiments"),
        ("3", "'3' names no experiment"),
        ("/2", "names no experiment"),
        ("/", "names no experiment"),
        ("../2/3", "names no experiment"),
    ],
)
def test_what_is_not_there_is_one_line(root, ref, says):
    with pytest.raises(ArchiveError, match=says) as refused:
        resolve(root, ref)
    assert "\n" not in str(refused.value)


def test_an_empty_archive_says_so_for_a_job_too(tmp_path):
    with pytest.raises(ArchiveError, match=r"there are no experiments in it"):
        resolve(tmp_path, "2/3")


def test_a_plan_of_another_version_is_refused_with_its_number(root):
    plan = root / "00002-grid" / "sweep.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"version": 2}))
    for look in (resolve_run, expand):
        with pytest.raises(ArchiveError, match=r"sweep\.json: version '2'"):
            look(root, "2")


def test_a_sweep_without_a_record_has_nothing_to_expand_to(root):
    shutil.rmtree(root / "00002-grid" / "runs")
    with pytest.raises(ArchiveError, match=r"none of its 18 jobs left a record"):
        expand(root, "2")
