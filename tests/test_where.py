"""`gpt2lab list --where EXPR --sort KEY`: experiments chosen by results and config, and nothing carried out."""

import json
from pathlib import Path

import pytest
import yaml

from gpt2lab.archive import list_experiments
from gpt2lab.archive.where import select, sort
from gpt2lab.errors import ConfigError

RESULTS = [
    {"name": "first", "val_loss": 1.8, "status": "finished", "delay": None, "density": {"fc1": 1.0}},
    {"name": "second", "val_loss": 2.5, "status": "finished", "delay": 300, "density": {"fc1": 0.44}},
    {"name": "third", "val_loss": None, "status": "failed", "delay": None, "density": {"fc1": 1.0}},
    {"name": "fourth", "val_loss": 0.3, "status": "finished", "delay": 20, "density": {"fc1": 1.0}},
]
CONFIGS = [
    {"seed": 1, "data": {"source": "pydocs"}, "train": {"batch_size": 16, "eval_train": True}},
    {"seed": 2, "data": {"source": "pydocs"}, "train": {"batch_size": 32, "eval_train": False}},
    {"seed": 1, "data": {"source": "text"}, "train": {"batch_size": 16, "eval_train": True}},
    {"seed": 1, "data": {"source": "modular"}, "train": {"batch_size": "full", "eval_train": True}},
]


@pytest.fixture
def archived_runs(tmp_path) -> Path:
    root = tmp_path / "experiments"
    for number, (summary, config) in enumerate(zip(RESULTS, CONFIGS, strict=True), 1):
        path = root / f"{number:05d}-{summary['name']}"
        path.mkdir(parents=True)
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        (path / "provenance.json").write_text("{}")
        (path / "status.json").write_text("{}")
    return root


def chosen(root: Path, expression: str) -> list[int]:
    return [experiment.number for experiment in select(list_experiments(root), expression)]


@pytest.mark.parametrize(
    ("expression", "numbers"),
    [
        ("val_loss<2", [1, 4]),
        ("val_loss <= 1.8 and seed==1", [1, 4]),
        ("val_loss>2 or data.source==text", [2, 3]),
        ("not data.source==pydocs", [3, 4]),
        ("data.source!=pydocs", [3, 4]),
        ("not (seed==2 or status==failed) and val_loss>-1", [1, 4]),
        ("status=='failed'", [3]),
        ('name=="first"', [1]),
        ("density.fc1<0.5", [2]),
        ("number>=3", [3, 4]),
        ("slug==third", [3]),
        ("val_loss==null", [3]),
        ("delay!=null", [2, 4]),
        ("train.eval_train==false", [2]),
        ("seed==true", []),
        ("seed=='1'", []),
        ("train.batch_size==full", [4]),
        ("train.batch_size<20", [1, 3]),
        ("val_loss<1e-9", []),
        (" seed == 2 ", [2]),
    ],
)
def test_an_expression_chooses_by_results_and_config(archived_runs, expression, numbers):
    assert chosen(archived_runs, expression) == numbers


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("val_los<2", r"no experiment has a value 'val_los'; did you mean val_loss\?"),
        ("seed==1 or batch_size==3", r"'batch_size'; did you mean train\.batch_size\?"),
        ("train==3", r"'train'; did you mean train\.batch_size or train\.eval_train\?"),
        ("zzz==3", "'zzz'; gpt2lab show N --json"),
        ("val_loss<high", "val_loss<'high' never holds: val_loss is a number, for example 0.3"),
        ("status>3", "status is a word"),
        ("val_loss=1", "cannot be read; equal is =="),
        ("", "cannot be read"),
        ("name==first light", "cannot be read.*around a word"),
        ("2>val_loss", "the key comes first"),
        ("val_loss", "is no comparison"),
        ("1<val_loss<2", "is no comparison"),
        ("seed in (1,2)", "is no comparison"),
        ("seed==1+1", "neither a number nor a word"),
        ("seed==(1,2)", "neither a number nor a word"),
        ("seed==b'1'", "neither a number nor a word"),
        ("seed==1j", "neither a number nor a word"),
        ("val_loss<null", "has no order"),
        ("-val_loss<2", "the key comes first"),
        ("seed==1\0", "cannot be read"),
        ("(" * 300 + "seed==1" + ")" * 300, "cannot be read"),
        ("not " * 249 + "x==1", "no experiment|cannot be read"),
        ("x" * 1001, "1,001 characters, at most 1,000"),
    ],
)
def test_what_cannot_be_read_or_is_unknown_is_said_in_one_line(archived_runs, expression, message):
    with pytest.raises(ConfigError, match=message) as caught:
        chosen(archived_runs, expression)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').mkdir('made')==1",
        "name==__import__('os').mkdir('made')",
        "open('made','w')==1",
        "[open('made','w') for x in 'a']==1",
        "(lambda: open('made','w'))()==1",
        'name==f\'{open("made","w")}\'',
        "(made:=1)==1",
        "name['x']==1",
    ],
)
def test_nothing_in_an_expression_is_carried_out(archived_runs, monkeypatch, expression):
    monkeypatch.chdir(archived_runs)
    before = sorted(archived_runs.iterdir())
    with pytest.raises(ConfigError):
        chosen(archived_runs, expression)
    assert sorted(archived_runs.iterdir()) == before


def test_a_name_of_python_is_a_key_like_any_other(archived_runs):
    with pytest.raises(ConfigError, match=r"no experiment has a value 'name\.__class__'"):
        chosen(archived_runs, "name.__class__==str")


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        ("val_loss", [4, 1, 2, 3]),
        ("-val_loss", [2, 1, 4, 3]),
        ("-number", [4, 3, 2, 1]),
        ("data.source", [4, 1, 2, 3]),
        ("train.batch_size", [1, 3, 2, 4]),
        ("seed", [1, 3, 4, 2]),
    ],
)
def test_a_list_is_sorted_with_what_is_not_measured_at_the_end(archived_runs, key, numbers):
    assert [experiment.number for experiment in sort(list_experiments(archived_runs), key)] == numbers


def test_an_unknown_key_to_sort_by_is_refused(archived_runs):
    with pytest.raises(ConfigError, match=r"--sort: no experiment has a value 'prime'"):
        sort(list_experiments(archived_runs), "prime")


def test_a_damaged_experiment_is_left_out_and_hides_no_other(archived_runs):
    (archived_runs / "00001-first" / "summary.json").write_text("{")
    (archived_runs / "00002-second" / "config.yaml").write_text("a: &a {b: *a, c: &c [*c]}")
    assert chosen(archived_runs, "val_loss<2") == [4]
    assert chosen(archived_runs, "seed==1") == [1, 3, 4]
    with pytest.raises(ConfigError, match="'sead'; did you mean seed"):
        chosen(archived_runs, "sead==1")


def test_an_empty_archive_has_no_unknown_keys(tmp_path):
    assert chosen(tmp_path, "anything==1") == []
    assert sort([], "anything") == []


def test_the_command_filters_sorts_and_prints_json(archived_runs, command):
    root = str(archived_runs)
    out, _ = command("list", "--where", "val_loss<3", "--sort", "-val_loss", "--json", "--root", root)
    assert [json.loads(line)["number"] for line in out.splitlines()] == [2, 1, 4]
    out, _ = command("list", "--where", "seed==2", "--root", root)
    assert "second" in out and "first" not in out
    assert "of none of its 4 experiments" in command("list", "--where", "seed==9", "--root", root)[0]
    assert command("list", "--where", "seed==9", "--json", "--root", root)[0] == ""
    assert "did you mean seed" in command("list", "--where", "sed==9", "--root", root, expect=2)[1]
