import copy
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from gpt2lab.record import provenance
from gpt2lab.record.identity import code_hash
from gpt2lab.record.provenance import PACKAGES, collect, config_hash
from gpt2lab.record.source_archive import find_source_root, source_hash
from gpt2lab.schema import RunConfig, plain

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def source(tmp_path):
    """A gpt2lab source folder that is no repository."""
    root = tmp_path / "source"
    (root / "gpt2lab").mkdir(parents=True)
    (root / "gpt2lab" / "__init__.py").write_text("")
    (root / "README.md").write_text("words\n")
    return root


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def committed(source):
    """The same folder as a repository of one commit."""
    git(source, "init", "-q")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "first")
    return source


def collected(root: Path, **changes) -> dict:
    values = {"command": ["gpt2lab", "run"], "config": {"seed": 0}, "data": {}, "model": {}, "engine": {}}
    return collect(source_root=root, **{**values, **changes})


@needs_git
def test_a_clean_checkout_is_its_commit(committed):
    assert collected(committed)["git"] == {
        "commit": git(committed, "rev-parse", "HEAD"),
        "dirty": False,
        "patch": "",
        "untracked": [],
    }


@needs_git
def test_changed_and_new_source_is_dirty_and_kept(committed):
    (committed / "gpt2lab" / "__init__.py").write_text("changed = True\n")
    (committed / "gpt2lab" / "new idea.py").write_text("")
    found = collected(committed)["git"]
    assert found["dirty"] is True
    assert "+changed = True" in found["patch"]
    assert found["untracked"] == ["gpt2lab/new idea.py"]


@needs_git
def test_a_staged_change_is_in_the_patch_too(committed):
    (committed / "gpt2lab" / "__init__.py").write_text("staged = True\n")
    git(committed, "add", "-A")
    assert "+staged = True" in collected(committed)["git"]["patch"]


@needs_git
def test_what_is_not_source_does_not_make_it_dirty(committed):
    (committed / "experiments").mkdir()
    (committed / "experiments" / "README.md").write_text("index")
    assert collected(committed)["git"]["dirty"] is False


@needs_git
def test_the_repository_around_an_installed_package_is_not_ours(committed):
    site_packages = committed / ".venv" / "lib"
    (site_packages / "gpt2lab").mkdir(parents=True)
    (site_packages / "gpt2lab" / "__init__.py").write_text("")
    assert collected(site_packages)["git"] == dict.fromkeys(("commit", "dirty", "patch", "untracked"))


@needs_git
def test_variables_of_a_git_hook_do_not_lead_elsewhere(committed, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-qm", "theirs", "--allow-empty")
    commit = git(committed, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert collected(committed)["git"]["commit"] == commit


@needs_git
def test_a_large_patch_is_cut_with_a_note(committed, monkeypatch):
    monkeypatch.setattr(provenance, "_MAX_PATCH_BYTES", 300)
    (committed / "README.md").write_text("é" * 2000)
    patch = collected(committed)["git"]["patch"]
    assert len(patch.encode()) < 500
    assert re.search(r"\[cut here: the patch has \d{4} bytes; source.tar.gz holds", patch)


@needs_git
def test_a_repository_without_a_commit_has_no_commit(source):
    git(source, "init", "-q")
    git(source, "add", "-A")
    assert collected(source)["git"]["commit"] is None


def test_without_a_repository_the_git_fields_are_null(source):
    assert collected(source)["git"] == dict.fromkeys(("commit", "dirty", "patch", "untracked"))


def test_without_git_the_git_fields_are_null(source, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert collected(source)["git"]["commit"] is None


def test_no_path_of_this_machine_is_recorded(source):
    home = Path.home()
    found = collected(
        source,
        command=[f"{source}/gpt2lab/run.py", f"data.path={home}/corpus.txt", f"resume={source}/runs/a", str(source)],
        data={"files": {f"{home}/corpus.txt": "ab"}, "detail": {"folder": [f"{source}/data"]}},
        engine={"device_name": "cpu"},
    )
    assert found["command"] == ["gpt2lab/run.py", "data.path=~/corpus.txt", "resume=runs/a", "."]
    assert found["data"] == {"files": {"~/corpus.txt": "ab"}, "detail": {"folder": ["data"]}}
    assert str(source) not in json.dumps(found)


def test_machine_versions_and_hashes_are_recorded_as_json(source):
    found = collected(source)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["platform"]["cores"] >= 1 and found["platform"]["cpu"] and found["platform"]["python"]
    assert {"gpt2lab", "numpy", "hydra-core"} <= found["versions"].keys()
    assert found["source_hash"] == source_hash(source)
    assert found["code_hash"] == code_hash(source)
    assert found["config_hash"] == config_hash({"seed": 0})
    assert re.fullmatch(r"[0-9a-f]{32}", found["run_id"])
    assert found["run_id"] != collected(source)["run_id"]


def test_every_dependency_of_the_project_has_its_version_recorded():
    project = tomllib.loads((find_source_root() / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["hf"], *extras["offline"], extras["cuda12"][0], extras["cuda13"][0]]
    assert {re.split(r"[<>=]", line)[0] for line in lines} == set(PACKAGES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("hypothesis", "it works"),
        ("tags", ["a"]),
        ("resume", "runs/a"),
        ("tracker.mode", "online"),
        ("archive.root", "elsewhere"),
        ("data.path", "/data/corpus.txt"),
        ("data.train", "a*.bin"),
        ("data.val", "a*.bin"),
        ("data.test", "a*.bin"),
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_config_hash(key, value):
    config = plain(RunConfig())
    before = copy.deepcopy(config)
    changed = copy.deepcopy(config)
    set_key(changed, key, value)
    assert changed != config
    assert config_hash(changed) == config_hash(config)
    assert config == before


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 1), ("fc1_band", 256), ("optim.learning_rate", 1e-4), ("data.tokenizer", "gpt2")]
)
def test_what_changes_the_result_changes_the_config_hash(key, value):
    config = plain(RunConfig())
    changed = copy.deepcopy(config)
    set_key(changed, key, value)
    assert config_hash(changed) != config_hash(config)


def test_the_order_of_keys_does_not_change_the_config_hash():
    config = plain(RunConfig())
    assert config_hash(dict(reversed(config.items()))) == config_hash(config)


def set_key(config: dict, key: str, value: object) -> None:
    *groups, name = key.split(".")
    for group in groups:
        config = config[group]
    assert name in config
    config[name] = value
