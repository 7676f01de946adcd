"""What import refuses in the plan of a sweep; the rest is in test_hostile_archive.py."""

import json
from pathlib import Path

import pytest

from gpt2lab.archive.import_check import check_plan
from gpt2lab.errors import ArchiveError
from tests.sweep_records import write_banded_sweep


@pytest.fixture
def plan(tmp_path) -> Path:
    return write_banded_sweep(tmp_path / "sweep", widths=()) / "sweep.json"


def test_the_plan_of_a_sweep_is_taken(plan):
    check_plan(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ["a"]}, r"name is .*'a'"),
        ({"sweep_id": {}}, "sweep_id is"),
        ({"created": 5}, "created is '5'"),
        ({"varies": "abc"}, "varies is 'abc'"),
        ({"hypothesis": {"a": 1}}, "hypothesis is"),
        ({"baseline": [1]}, "baseline is"),
        ({"baseline": {"seed": {}}}, "a setting is a group"),
        ({"baseline": {"seed": 10**400}}, "a value that no record has"),
        ({"version": 2}, "version '2'"),
    ],
)
def test_a_plan_of_other_kinds_is_refused(plan, change, message):
    plan.write_text(json.dumps(json.loads(plan.read_text()) | change))
    with pytest.raises(ArchiveError, match=message):
        check_plan(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"folder": name}, "is not one below runs/") for name in ("../x", "runs/../../x", "/etc", "runs/.x")),
        *(({"folder": name}, "is not one below runs/") for name in ("runs/a/b", "runs/", "x", "runs/\x1b[2J")),
        ({"folder": 3}, "folder is '3'"),
        ({"number": True}, "number is 'True'"),
        ({"values": [1]}, "values is"),
        ({"values": {"seed": {}}}, "a setting is a group"),
    ],
)
def test_a_job_that_leaves_the_directory_or_is_of_other_kinds_is_refused(plan, change, message):
    content = json.loads(plan.read_text())
    content["jobs"][1] |= change
    plan.write_text(json.dumps(content))
    with pytest.raises(ArchiveError, match=message):
        check_plan(plan)
