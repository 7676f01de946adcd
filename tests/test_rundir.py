import multiprocessing
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record.rundir import RunDir, create_unique, host_digest, runs_elsewhere


def make_directories(parent: Path, count: int) -> list[str]:
    return [create_unique(parent, "12-00-00-mini").name for _ in range(count)]


@pytest.fixture
def other_process(tmp_path):
    """Another process that holds tmp_path/run; yields it and lets it go by closing its input."""
    script = textwrap.dedent(f"""
        from pathlib import Path
        from gpt2lab.record.rundir import RunDir
        run = RunDir.claim(Path({str(tmp_path / "run")!r}))
        print("claimed", flush=True)
        input()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_directories_of_the_same_name_are_numbered(tmp_path):
    parent = tmp_path / "runs" / "2026-01-01"
    assert make_directories(parent, 3) == ["12-00-00-mini", "12-00-00-mini-2", "12-00-00-mini-3"]


def test_processes_of_the_same_second_get_directories_of_their_own(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        names = [name for made in pool.starmap(make_directories, [(tmp_path, 20)] * 3) for name in made]
    assert len(set(names)) == 60
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_a_claimed_directory_is_a_running_run(tmp_path):
    with RunDir.claim(tmp_path / "run") as run:
        status = run.read_status()
    assert status["state"] == "running" and status["started"].endswith("Z") and status["ended"] is None


@pytest.mark.parametrize("file", ["status.json", "metrics.csv", "model.bin"])
def test_a_directory_that_holds_a_run_is_not_claimed_again(tmp_path, file):
    (tmp_path / file).write_text("{}")
    with pytest.raises(ArchiveError, match=rf"already holds a run \({file}\).*resume="):
        RunDir.claim(tmp_path)
    assert (tmp_path / file).read_text() == "{}"


def test_a_refused_claim_leaves_the_directory_unlocked(tmp_path):
    RunDir.claim(tmp_path).close()
    with pytest.raises(ArchiveError, match="already holds a run"):
        RunDir.claim(tmp_path)
    RunDir.reopen(tmp_path).close()


def test_a_run_in_use_is_refused_and_the_process_is_named(tmp_path, other_process):
    with pytest.raises(ArchiveError, match=f"process {other_process.pid} is running in it") as caught:
        RunDir.reopen(tmp_path / "run")
    assert "\n" not in str(caught.value)
    with pytest.raises(ArchiveError, match=f"process {other_process.pid} is running in it"):
        RunDir.claim(tmp_path / "run")


def test_a_killed_run_can_be_reopened(tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    with RunDir.reopen(tmp_path / "run") as run:
        assert run.read_status()["state"] == "running"
        assert run.read_status()["pid"] == other_process.pid


def test_only_a_run_directory_can_be_reopened(tmp_path):
    with pytest.raises(ArchiveError, match="not a run directory"):
        RunDir.reopen(tmp_path)
    with pytest.raises(ArchiveError, match="not a run directory"):
        RunDir.reopen(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_status_keeps_the_first_start_and_the_details_and_replaces_the_reason(tmp_path):
    with RunDir.claim(tmp_path) as run:
        started = run.read_status()["started"]
        run.write_status("interrupted", reason="SIGINT", step=20, training_s=1.5)
        first = run.read_status()
        run.write_status("running")
        resumed = run.read_status()
        run.write_status("finished", step=40)
        last = run.read_status()
    assert (first["reason"], first["step"], first["ended"] >= started) == ("SIGINT", 20, True)
    assert (resumed["reason"], resumed["ended"], resumed["training_s"]) == (None, None, 1.5)
    assert (last["state"], last["step"], last["started"]) == ("finished", 40, started)


def test_an_unknown_state_is_our_own_mistake(tmp_path):
    with RunDir.claim(tmp_path) as run, pytest.raises(AssertionError, match="done"):
        run.write_status("done")


def test_config_overrides_and_provenance_come_back_as_they_were(tmp_path):
    config = {"seed": 0, "name": "naïve: yes", "optim": {"learning_rate": 1e-05, "beta2": 0.99}, "hypothesis": None}
    overrides = ["model=mini", "optim.learning_rate=1e-5", "name='a: b'"]
    provenance = {"run_id": "ab", "git": {"commit": None}}
    with RunDir.claim(tmp_path) as run:
        run.write_config(config)
        run.write_overrides(overrides)
        run.write_provenance(provenance)
    read = RunDir(tmp_path)
    assert read.read_config() == config and list(read.read_config()) == list(config)
    assert read.read_overrides() == overrides
    assert read.read_provenance() == provenance


@pytest.mark.parametrize(
    ("file", "content", "reader", "said"),
    [
        ("status.json", '{"state": "run', "read_status", "not JSON"),
        ("status.json", '{"state": "done"}', "read_status", "'done'"),
        ("status.json", "[]", "read_status", "JSON object"),
        ("status.json", None, "read_status", "no such file"),
        ("config.yaml", "a: [1", "read_config", "not YAML"),
        ("config.yaml", "- a", "read_config", "mapping"),
        ("overrides.yaml", "a: b", "read_overrides", "list"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, file, content, reader, said):
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ArchiveError, match=said) as caught:
        getattr(RunDir(tmp_path), reader)()
    assert file in str(caught.value) and "\n" not in str(caught.value)


def test_a_status_tells_machines_apart_without_naming_them(tmp_path, monkeypatch):
    RunDir.claim(tmp_path / "run").close()
    status = RunDir(tmp_path / "run").read_status()
    assert re.fullmatch(r"[0-9a-f]{12}", status["host"]) and not runs_elsewhere(tmp_path / "run")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert host_digest() != status["host"] and runs_elsewhere(tmp_path / "run")
    assert not runs_elsewhere(tmp_path / "nowhere")


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ArchiveError, match="cannot create run directory"):
        create_unique(tmp_path / "runs", "x")
    with pytest.raises(ArchiveError, match="cannot create run directory"):
        RunDir.claim(tmp_path / "runs" / "x")
