"""`gpt2lab reproduce`, on archived runs of a tiny model."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tiny_runs import TINY, numbers

from gpt2lab.archive.manifest import write_manifest
from gpt2lab.archive.reproduce import plan_reproduction
from gpt2lab.cli import main
from gpt2lab.errors import ArchiveError, ConfigError
from gpt2lab.record.identity import code_hash
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.source_archive import write_source_archive
from gpt2lab.record.unpack import unpack_source
from gpt2lab.run import main as run_main

RUN = [*TINY, "archive.mode=auto", "tracker=none", "train.max_steps=8", "train.eval_every=4", "name=first"]


@pytest.fixture(scope="module")
def archived(tmp_path_factory) -> Path:
    """A folder whose experiments/ holds one run of eight steps, with a cosine schedule."""
    folder = tmp_path_factory.mktemp("archived")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run_main([*RUN, "sample.count=1", "sample.max_tokens=3", "hydra.run.dir=runs/first"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def experiment(archived, workplace) -> Path:
    """A copy of the experiment, below the current directory."""
    shutil.copytree(archived / "experiments", "experiments")
    return Path("experiments/00001-first")


@pytest.fixture
def in_process(monkeypatch):
    """Runs what `reproduce` would start as a process in this one: for tests that are about something else."""

    @contextlib.contextmanager
    def child(command, environment, output):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            code = run_main(command[3:])
        output.write(text.getvalue().encode())
        output.flush()
        yield SimpleNamespace(wait=lambda: code)

    monkeypatch.setattr("gpt2lab.archive.reproduce._child", child)


@pytest.fixture
def reproduce(monkeypatch, capfd):
    """Runs `gpt2lab reproduce 1 ...` and returns what it printed: (stdout, stderr)."""

    def run(*arguments: str, expect: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["gpt2lab", "reproduce", "1", *arguments])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        output = capfd.readouterr()
        assert code == expect, output
        return output.out, output.err

    return run


def edit(path: Path, old: str, new: str) -> None:
    """Change a file of an experiment and list it anew, as someone would who hides it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    write_manifest(path.parent)


def edit_source(experiment: Path, folder: Path, file: str, old: str, new: str) -> None:
    """Change a file inside the archived source, with all hashes made to fit."""
    source_before = unpack_source(experiment / "source.tar.gz", folder)
    code_before = code_hash(folder)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    source_after = write_source_archive(experiment / "source.tar.gz", folder)
    edit(experiment / "provenance.json", source_before, source_after)
    edit(experiment / "provenance.json", code_before, code_hash(folder))


def plan(experiment: Path, **options):
    return plan_reproduction(experiment, experiment.parent, **options)


def test_the_same_run_gives_identical_numbers_and_leaves_nothing_behind(experiment, reproduce, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    before = sorted(tmp_path.rglob("*"))
    out, error = reproduce()
    first, *_, last = out.splitlines()
    assert first == "this executes the source code stored in experiments/00001-first/source.tar.gz"
    assert last.startswith("identical: 0 of ")
    assert "in 9 rows" in last
    assert error == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_archived_source_runs_and_not_the_installed_one(experiment, reproduce, tmp_path):
    edit_source(experiment, tmp_path / "edited", "gpt2lab/train/loop.py", "steps done", "steps done as of old")
    Path("gpt2lab").mkdir()  # nor one that lies in the current directory
    Path("gpt2lab/__init__.py").write_text("raise ImportError('the wrong one')")
    reproduce("--keep", "kept")
    assert json.loads(Path("kept/status.json").read_text())["reason"] == "all 8 steps done as of old"


def test_a_prefix_keeps_the_learning_rates_of_the_whole_run(experiment, in_process, reproduce):
    out, _ = reproduce("--steps", "5", "--keep", "kept", "--json")
    result = json.loads(out)
    assert (result["verdict"], result["rows"], result["stop"]) == ("identical", 6, 5)
    kept, whole = numbers(Path("kept")), numbers(experiment)
    assert [row["lr"] for row in kept] == [row["lr"] for row in whole[:6]]
    assert whole[5]["val_loss"] is None
    assert kept[5]["val_loss"] is not None  # measured because the run ended there, and left out


def test_a_changed_number_is_found_with_its_place_and_size(experiment, in_process, reproduce):
    rows = read_metrics(experiment / "metrics.csv")
    value = rows[3]["train_loss"]
    edit(experiment / "metrics.csv", repr(value), repr(value * 1.01))
    out, error = reproduce("--steps", "3", expect=5)
    assert "different: 1 of " in out
    assert f"first    step 3, train_loss: archived {value * 1.01!r}, now {value!r}" in out
    assert "relative 0.0099" in out
    assert "changed  nothing that the record names" in out
    assert error == "gpt2lab: experiments/00001-first: its numbers were not reproduced\n"


def test_a_difference_within_the_stated_tolerance_is_success(experiment, in_process, reproduce):
    value = read_metrics(experiment / "metrics.csv")[1]["grad_norm"]
    edit(experiment / "metrics.csv", repr(value), repr(value * 1.001))
    edit(experiment / "provenance.json", '"numpy": "', '"numpy": "0.')
    out, _ = reproduce("--steps", "1", "--tolerance", "0.01")
    assert "within tolerance (0.01 relative): 1 of " in out
    assert "changed  numpy: 0." in out


def test_a_run_that_cannot_be_made_passes_its_own_message_on(experiment, reproduce):
    overrides = yaml.safe_load((experiment / "overrides.yaml").read_text())
    (experiment / "overrides.yaml").write_text(yaml.safe_dump([*overrides, "data=text", "data.path=gone.txt"]))
    write_manifest(experiment)
    _, error = reproduce(expect=3)
    assert "the run could not be made again (exit code 3): " in error
    assert "gone.txt" in error
    assert "start at the current directory" in error
    assert error.count("\n") == 1


def test_a_run_that_diverged_diverges_again_at_the_same_step(experiment, in_process, reproduce, monkeypatch):
    tiny = [override for override in RUN if not override.startswith(("name", "train.max_steps"))]
    assert run_main([*tiny, "debug=diverge", "archive.mode=off", "hydra.run.dir=runs/diverged"]) == 4
    monkeypatch.setattr(sys, "argv", ["gpt2lab", "snapshot", "runs/diverged", "--force"])
    main()
    shutil.rmtree(experiment)
    next(Path("experiments").glob("00002-*")).rename(experiment)
    out, _ = reproduce()
    assert "identical: 0 of " in out
    assert "the run ended with: step " in out


def test_control_characters_of_an_archive_do_not_reach_the_terminal(experiment, reproduce):
    overrides = yaml.safe_load((experiment / "overrides.yaml").read_text())
    (experiment / "overrides.yaml").write_text(yaml.safe_dump([*overrides, "hypothesis=\x1b[2J\nidentical"]))
    write_manifest(experiment)
    out, error = reproduce(expect=2)
    assert "\x1b" not in out + error
    assert error.count("\n") == 1


def test_a_config_that_the_overrides_do_not_give_is_named(experiment, in_process, reproduce):
    edit(experiment / "config.yaml", "seed: 0", "seed: 1")
    assert "config   seed: 1 in config.yaml, 0 from overrides.yaml" in reproduce("--steps", "1")[0]


def test_a_run_that_crashes_shows_its_last_lines(experiment, reproduce, tmp_path):
    edit_source(experiment, tmp_path / "edited", "gpt2lab/run.py", '"""', 'raise OverflowError("over")\n"""')
    _, error = reproduce(expect=2)
    assert "OverflowError: over" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("file", ["source.tar.gz", "config.yaml", "overrides.yaml", "metrics.csv", "provenance.json"])
def test_a_changed_or_missing_file_is_named_and_nothing_is_executed(experiment, file):
    with (experiment / file).open("ab") as changed:
        changed.write(b"\n")
    with pytest.raises(ArchiveError, match=rf"{file}: changed since it was archived .*: nothing was executed"):
        plan(experiment)
    (experiment / file).unlink()
    with pytest.raises(ArchiveError, match=f"{file}: missing"):
        plan(experiment)


def test_a_source_that_is_not_the_recorded_one_is_refused(experiment, reproduce, tmp_path):
    unpack_source(experiment / "source.tar.gz", tmp_path / "edited")
    (tmp_path / "edited/gpt2lab/run.py").write_text("print('evil')")
    write_source_archive(experiment / "source.tar.gz", tmp_path / "edited")
    write_manifest(experiment)
    assert "it is not the source that ran" in reproduce(expect=5)[1]


def test_what_places_a_run_is_replaced_and_what_it_computes_stays(experiment):
    run = ["+experiment=x", "tracker.mode=online", "tracker=wandb", "archive.root=far", "sample.count=9", "seed=3"]
    (experiment / "overrides.yaml").write_text(yaml.safe_dump([*run, "train.stop_when='val_loss<=2'", "hydra.x=1"]))
    write_manifest(experiment)
    root = f'archive.root="{Path.cwd() / "experiments"}"'
    placed = ["hydra.mode=RUN", "archive.mode=off", root, "tracker=none", "sample.count=0"]
    stop = "train.stop_when='val_loss<=2'"
    assert plan(experiment).overrides == ("+experiment=x", "seed=3", stop, *placed, "engine.device=cpu")
    stopped = plan(experiment, steps=4)
    assert stopped.overrides == ("+experiment=x", "seed=3", *placed, 'train.stop_when="step>=4"', "engine.device=cpu")
    assert plan(experiment, steps=8).stop is None


def test_a_run_that_the_clock_ended_is_compared_up_to_its_last_regular_row(experiment):
    edit(experiment / "status.json", "all 8 steps done", "time limit of 3 s reached")
    edit(experiment / "config.yaml", "log_every: 1", "log_every: 3")
    edit(experiment / "config.yaml", "time_limit: null", "time_limit: 3.0")
    found = plan(experiment)
    assert found.stop == 6
    assert {"train.time_limit=null", 'train.stop_when="step>=6"'} <= set(found.overrides)


def test_more_steps_than_the_run_has_are_refused(experiment):
    with pytest.raises(ConfigError, match="--steps 9: the archived run has 8 steps"):
        plan(experiment, steps=9)


def test_a_directory_that_holds_something_is_not_written_into(experiment, reproduce):
    Path("kept").mkdir()
    Path("kept/mine").touch()
    assert "--keep kept: exists already" in reproduce("--keep", "kept", expect=2)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_kills_the_run_and_removes_its_files(experiment, tmp_path, number):
    slow = 'import os, pathlib, time\npathlib.Path("child").write_text(str(os.getpid()))\ntime.sleep(600)\n"""'
    edit_source(experiment, tmp_path / "edited", "gpt2lab/run.py", '"""', slow)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    project = Path(__file__).parent.parent
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(project)}
    code = "from gpt2lab.cli import main; main()"
    parent = subprocess.Popen([sys.executable, "-c", code, "reproduce", "1"], env=environment)
    waited = time.monotonic() + 300
    while not (Path("child").is_file() and Path("child").read_text()) and time.monotonic() < waited:
        time.sleep(0.05)
    child = int(Path("child").read_text())
    parent.send_signal(number)
    assert parent.wait(timeout=300) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert list(temporary.iterdir()) == []
