"""What a person can get wrong, for every command on an archive: one line that says what to do, and an exit code."""

import json
import shutil
from pathlib import Path

import pytest

from tests.test_hostile_archive import archive, two_experiments  # noqa: F401

FIRST = "experiments/00001-seed-1"
REFS = {
    "show": ["show", "{}"],
    "compare": ["compare", "2", "{}"],
    "report": ["report", "{}"],
    "verify": ["verify", "{}"],
    "reproduce": ["reproduce", "{}"],
    "export": ["export", "{}"],
}


@pytest.mark.parametrize("name", REFS)
@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("7", "'7' names no experiment of experiments; there are 00001-seed-1, 00002-seed-2"),
        ("seed", "'seed' names no experiment"),
        ("../experiments", "names no experiment"),
        ("00007-seed/samples", "names no experiment"),
        ("", "names no experiment"),
    ],
)
def test_what_names_no_experiment_is_told_which_there_are(archive, command, name, ref, message):  # noqa: F811
    _, err = command(*(part.format(ref) for part in REFS[name]), expect=5)
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["show", "verify", "report", "compare"])
def test_a_name_is_accepted_while_only_one_has_it(archive, command, name):  # noqa: F811
    words = [part.format("seed 1") for part in REFS[name]]
    command(*words)
    shutil.copytree(FIRST, "experiments/00003-seed-1")
    _, err = command(*words, expect=5)
    assert "'seed 1' names 2 experiments of experiments: 00001-seed-1, 00003-seed-1; use the folder's whole name" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["list"], 0, "nowhere: there are no experiments in it yet"),
        (["show", "1"], 5, "nowhere: there are no experiments in it; a finished run becomes one with gpt2lab snapshot"),
        (["compare", "1", "2"], 5, "there are no experiments in it"),
        (["report", "1"], 5, "there are no experiments in it"),
        (["verify"], 5, "there are no experiments in it"),
        (["reproduce", "1"], 5, "there are no experiments in it"),
        (["export", "1"], 5, "there are no experiments in it"),
        (["gc", "--runs", "no-runs"], 0, "no-runs and nowhere hold no run"),
    ],
)
def test_an_empty_archive_is_said_to_be_empty(archive, command, words, code, message):  # noqa: F811
    out, err = command(*words, "--root", "nowhere", expect=code)
    assert message in out + err and (out + err).count("\n") == 1 and not Path("nowhere").exists()


def test_the_bad_row_of_metrics_is_named(archive, command):  # noqa: F811
    path = Path(FIRST) / "metrics.csv"
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace(",", ",x", 1)
    path.write_text("\n".join(lines) + "\n")
    for words in (["compare", "1", "2"], ["report", "1"]):
        assert "metrics.csv, line 5: damaged, tokens is 'x" in command(*words, expect=5)[1]
    assert "line 5: damaged, tokens is 'x" in command("verify", "1", expect=5)[0]
    for words in (["reproduce", "1"], ["export", "1"]):
        assert "metrics.csv" in command(*words, expect=5)[1]
    assert "00001-seed-1 is not as it was archived: changed metrics.csv" in command("gc")[0]
    for words in (["list"], ["show", "1"]):
        command(*words)


@pytest.mark.parametrize("file", ["summary.json", "manifest.json"])
def test_another_version_is_read_or_refused_by_its_number(archive, command, file):  # noqa: F811
    path = Path(FIRST) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 9}))
    version = f"{file}: version 9, and this gpt2lab reads version 1: use the gpt2lab that wrote it"
    version = version.replace("9,", "'9',")
    refusing = {
        "summary.json": [["show", "1", "--json"]],
        "manifest.json": [["reproduce", "1"], ["report", "1"]],
    }[file]
    for words in refusing:
        assert version in command(*words, expect=5)[1]
    for words in (["verify", "1"], ["export", "1", "--output", "out.tar"]):
        assert file in "".join(command(*words, expect=5)) and not Path("out.tar").exists()
    assert ("damaged" in command("list")[0]) == (file == "summary.json")
