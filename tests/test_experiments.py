"""Finding and listing experiments, in archives of a few and of many."""

import json

import pytest

from gpt2lab.archive import find_experiments, list_experiments
from gpt2lab.archive.verify import verify
from tests.many_experiments import SEEDS, write_archive


@pytest.fixture(scope="module")
def ten_experiments(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("ten") / "experiments", 10)


def test_an_archive_made_by_formula_is_one_that_verifies(ten_experiments):
    experiments = find_experiments(ten_experiments)
    assert [experiment.number for experiment in experiments] == list(range(1, 11))
    assert [verify(experiment.path).faults for experiment in experiments] == [()] * 10


def test_commands_read_an_archive_made_by_formula(ten_experiments, command):
    root = ("--root", str(ten_experiments))
    lines = command("list", "--where", "optim.learning_rate>1.5e-4", "--json", *root)[0].splitlines()
    assert [json.loads(line)["name"] for line in lines] == [f"run 1 seed {seed}" for seed in range(SEEDS)]
    found = json.loads(command("compare", *map(str, range(1, 11)), "--json", *root)[0])
    assert [row["estimate"]["n"] for row in found["rows"]] == [SEEDS, SEEDS]


def test_a_list_reads_only_the_files_that_it_is_asked_for(ten_experiments):
    first = ten_experiments / "00001-run-0-seed-0"
    whole = (first / "provenance.json").read_text()
    (first / "provenance.json").write_text("{")
    try:
        assert list_experiments(ten_experiments, parts=("summary",))[0].damage == ()
        assert list_experiments(ten_experiments, parts=("summary",))[0].provenance == {}
        [damage] = list_experiments(ten_experiments)[0].damage
        assert "provenance.json: damaged" in damage
    finally:
        (first / "provenance.json").write_text(whole)
