"""Every command on an archive from strangers: one line and an exit code, nothing read or written outside of it."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2lab.archive import create
from gpt2lab.cli import main
from gpt2lab.report import write_report
from tests.run_records import text_rows, write_record

SECRET = "the-words-of-another-folder"
COMMANDS = {
    "list": ["list"],
    "where": ["list", "--where", "seed<9", "--sort", "optim.beta1"],
    "show": ["show", "1"],
    "show json": ["show", "1", "--json"],
    "compare": ["compare", "1", "2"],
    "report": ["report", "1"],
    "verify": ["verify", "1"],
    "reproduce": ["reproduce", "1"],
    "export": ["export", "1", "--output", "out.tar"],
    "gc": ["gc"],
}
FILES = (
    "README.md",
    "config.yaml",
    "manifest.json",
    "metrics.csv",
    "notes.md",
    "overrides.yaml",
    "provenance.json",
    "status.json",
    "summary.json",
)


@pytest.fixture(scope="module")
def two_experiments(tmp_path_factory) -> Path:
    """A folder with runs of two seeds, and experiments/ with both."""
    folder = tmp_path_factory.mktemp("two")
    for seed in (1, 2):
        config = {"seed": seed}
        facts = {"run_id": f"{seed:032x}"}
        rows = text_rows(steps=200, eval_every=100)
        run = write_record(
            folder / "runs" / f"s{seed}", rows, config=config, provenance=facts, samples={"0.txt": "It is."}
        )
        (run / "source.tar.gz").write_bytes(b"no source")
        create(run, folder / "experiments", name=f"seed {seed}", hypothesis=None, write_report=write_report)
    return folder


@pytest.fixture
def archive(two_experiments, tmp_path, monkeypatch) -> Path:
    """The first of two experiments in a copy, beside a folder that no command may look into; the current directory."""
    shutil.copytree(two_experiments, tmp_path / "place")
    outside = tmp_path / "outside"
    (outside / "samples").mkdir(parents=True)
    for name in (*FILES, "samples/0.txt", "loss.svg"):
        (outside / name).write_text(SECRET)
    monkeypatch.chdir(tmp_path / "place")
    return Path("experiments/00001-seed-1")


@pytest.fixture
def ending(monkeypatch, capsys) -> Callable[[str], tuple[int, str, str]]:
    """Runs one of COMMANDS and returns (exit code, stdout, stderr)."""

    def run(name: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["gpt2lab", *COMMANDS[name]])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        output = capsys.readouterr()
        assert isinstance(code, int)
        return code, output.out, output.err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_contained(ending: Callable[[str], tuple[int, str, str]], *, works: set[str]) -> None:
    """Each command ends with 0, or with one line; exactly `works` with 0, and nothing of outside is seen or changed."""
    outside = contents(Path("../outside"))
    codes = {}
    for name in COMMANDS:
        codes[name], out, err = ending(name)
        assert codes[name] in (0, 2, 5), (name, err)
        assert err.count("\n") == (codes[name] != 0), (name, err)
        assert SECRET not in out + err, name
        assert all(char.isprintable() or char in "\n\t" for char in out + err), name
    assert {name for name, code in codes.items() if code == 0} == works
    assert contents(Path("../outside")) == outside
    for path in Path("experiments").rglob("*"):
        if path.is_file() and not path.is_symlink() and not any(part.is_symlink() for part in path.parents):
            assert SECRET.encode() not in path.read_bytes()[: 1 << 20], path


SOUND = {"list", "where", "show", "show json", "compare", "report", "verify", "export", "gc"}
ALWAYS = {"list", "gc"}


def test_a_sound_archive_can_be_read_by_every_command_but_has_no_source_to_run(archive, ending):
    assert_contained(ending, works=SOUND)


def test_an_experiment_that_is_a_link_is_none(archive, ending):
    shutil.rmtree(archive)
    archive.symlink_to(Path("../../outside").resolve(), target_is_directory=True)
    shutil.copytree(Path("experiments/00002-seed-2"), Path("../outside/00001-x"))
    assert_contained(ending, works={*ALWAYS, "where"})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_a_pipe_in_place_of_a_file_is_not_opened(archive, ending, name, kind):
    (archive / name).unlink()
    if kind == "link":
        (archive / name).symlink_to(Path("../outside").resolve() / name)
    else:
        os.mkfifo(archive / name)
    never = {"report", "verify", "reproduce", "export"}
    reads = {
        "README.md": {"show"},
        "summary.json": {"show json"},
        "manifest.json": set(),
    }.get(name, {"compare"})
    assert_contained(ending, works=SOUND - never - reads)


@pytest.mark.parametrize("name", ["samples", "figures"])
def test_a_folder_that_is_a_link_is_not_entered(archive, ending, name):
    shutil.rmtree(archive / name)
    (archive / name).symlink_to(Path("../outside").resolve(), target_is_directory=True)
    assert_contained(ending, works=SOUND - {"compare", "report", "verify", "export"})


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("metrics.csv", 3 << 30),
        ("config.yaml", 50 << 20),
        ("README.md", 100 << 20),
        ("notes.md", 2 << 20),
        ("summary.json", 3 << 30),
        ("provenance.json", 3 << 30),
        ("status.json", 3 << 30),
        ("manifest.json", 3 << 30),
        ("samples/0.txt", 3 << 30),
    ],
)
def test_a_file_beyond_all_measure_is_not_read(archive, ending, name, size):
    os.truncate(archive / name, size)  # holes, which take no room on the disk
    for command in COMMANDS:
        code, _, err = ending(command)
        assert code in (0, 5) and err.count("\n") == (code != 0), command
        if code and command not in ("verify", "reproduce", "export"):
            assert f"has {size:,} bytes, and at most" in err, command


def test_names_that_leave_the_folder_are_refused(archive, ending):
    manifest = json.loads((archive / "manifest.json").read_text())
    entry = manifest["files"]["notes.md"]
    for name in ("../../../outside/notes.md", str(Path("../outside/notes.md").resolve()), "a/../../b", "\x1b[2J"):
        changed = {**manifest, "files": {**manifest["files"], name: entry}}
        (archive / "manifest.json").write_text(json.dumps(changed))
        code, out, err = ending("verify")
        assert code == 5 and "refused" in out and SECRET not in out + err and "\x1b" not in out + err
        assert ending("export")[0] == 5


HOSTILE_NAME = '<script>alert(1)</script>|[x](javascript:y)\n# "\x1b[2J`a`![z](http://example.com/z.png)'


def test_markup_in_a_name_and_a_hypothesis_shows_itself(archive, ending):
    run = write_record(Path("runs/hostile"), text_rows(steps=20), config={"hypothesis": HOSTILE_NAME})
    notes = "# Notes of mine\n\n<img src=x onerror=alert(1)>\n\n```\n<b>\n"
    (run / "notes.md").write_text(notes)
    path = create(run, Path("experiments"), name=HOSTILE_NAME, hypothesis=None, write_report=write_report)
    assert path.name == "00003-script-alert-1-script-x-javascript-y-2j-a-z-http-example"
    page = (path / "README.md").read_text()
    assert "<script" not in page and "<img" not in page and not re.search(r"(?<!\\)\]\((javascript|http)", page)
    assert "\x1b" not in page and (path / "notes.md").read_text() == notes
    assert_contained(ending, works=SOUND)


@pytest.mark.parametrize(
    "notes",
    [
        b"\x00\xff\xfe" * 1000,
        b"```\nopen",
        b"<!-- open",
        b"<details><script>" + b"<" * 1000,
        b"<!--" * 20_000,
        b"- a\n  ```\n" * 2_000,
        b"[" * 20_000,
        b"> " * 20_000,
        b"#" * 20_000 + b"\n" + b"# x\n" * 1000,
        b"&#27;[2J &lt; \r\n\r \x0c\x85",
        b"",
    ],
)
def test_notes_may_hold_anything_and_are_never_changed(archive, ending, notes):
    (archive / "notes.md").write_bytes(notes)
    assert ending("report")[0] == 0
    for command in sorted(SOUND):
        code, out, err = ending(command)
        assert (code, err) == (0, ""), command
        assert all(char.isprintable() or char in "\n\t" for char in out), command
    assert (archive / "notes.md").read_bytes() == notes
