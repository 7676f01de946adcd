"""Experiments from strangers: import refuses what no run leaves behind, and the commands can read what it takes."""

import gzip
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2lab.archive import create
from gpt2lab.archive.transfer import export_experiment
from gpt2lab.cli import main
from gpt2lab.report import write_report
from tests.run_records import text_rows, write_record

FOLDER = "00001-seed-1"
COMMANDS = {
    "list": ["list"],
    "where": ["list", "--where", "seed<9", "--sort", "optim.beta1"],
    "sql": ["sql", "SELECT * FROM runs"],
    "show": ["show", "1"],
    "show json": ["show", "1", "--json"],
    "compare": ["compare", "1", "2"],
    "report": ["report", "1"],
    "verify": ["verify", "1"],
    "reproduce": ["reproduce", "1"],
    "export": ["export", "1", "--output", "out.tar"],
    "gc": ["gc"],
    "import": ["import", "hostile.tar", "--force"],
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
SOUND = ["list", "where", "sql", "show", "show json", "compare", "report", "verify", "export", "gc"]


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
        (run / "source.tar.gz").write_bytes(gzip.compress(bytes(10_240), mtime=0))  # an empty tar
        create(run, folder / "experiments", name=f"seed {seed}", hypothesis=None, write_report=write_report)
    return folder


@pytest.fixture
def archive(two_experiments, tmp_path, monkeypatch) -> Path:
    """The first of two experiments, in a copy; the current directory holds experiments/."""
    shutil.copytree(two_experiments, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return Path("experiments") / FOLDER


@pytest.fixture
def ending(monkeypatch, capsys) -> Callable[[str], tuple[int, str, str]]:
    """Runs one of COMMANDS and returns (exit code, stdout, stderr), which hold no control code."""

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
        assert all(char.isprintable() or char in "\n\t" for char in output.out + output.err), name
        return code, output.out, output.err

    return run


@pytest.fixture(scope="module")
def exported(two_experiments) -> dict[str, bytes]:
    """The files of the tar that an export of the first experiment gives."""
    tar = export_experiment(two_experiments / "experiments" / FOLDER, two_experiments / "sound.tar")
    with tarfile.open(tar) as entries:
        return {info.name.removeprefix(f"{FOLDER}/"): entries.extractfile(info).read() for info in entries}


@pytest.fixture
def refused(archive, exported, ending) -> Callable[..., None]:
    """Imports the exported experiment with some files changed: refused in one line, with the archive as it was."""

    def check(changes: dict[str, bytes | None], message: str, *headers: tarfile.TarInfo, **sizes: int) -> None:
        before = contents(Path())
        write_tar(Path("hostile.tar"), exported, changes, headers, sizes)
        code, out, err = ending("import")
        Path("hostile.tar").unlink()
        assert (code, out, err.count("\n")) == (5, "", 1), err
        assert re.search(message, err), err
        assert contents(Path()) == before

    return check


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_tar(path: Path, files: dict[str, bytes], changes=(), headers=(), sizes=()) -> None:
    """Write a tar whose manifest agrees with its files; `headers` replace entries, `sizes` what the manifest says."""
    replaced = {info.name.removeprefix(f"{FOLDER}/") for info in headers}
    changed = {name: content for name, content in {**files, **dict(changes)}.items() if content is not None}
    entries = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": dict(sizes).get(name, len(content))}
        for name, content in changed.items()
        if name != "manifest.json"
    }
    if "manifest.json" not in dict(changes):
        changed["manifest.json"] = json.dumps({"version": 1, "files": entries}).encode()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("manifest.json", *sorted(changed.keys() - {"manifest.json"} - replaced)):
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(changed[name])
            tar.addfile(info, io.BytesIO(changed[name]))
        for info in headers:
            tar.addfile(info)


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"{FOLDER}/{name}")
    info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return info


def test_a_sound_experiment_is_taken_and_every_command_can_read_it(archive, exported, ending):
    shutil.rmtree(archive)
    write_tar(Path("hostile.tar"), exported)
    code, out, err = ending("import")
    assert (code, err) == (0, "") and "experiments/00003-seed-1" in out
    Path("experiments/00003-seed-1").rename(archive)
    assert {name: ending(name)[0] for name in SOUND} == dict.fromkeys(SOUND, 0)
    code, _, err = ending("reproduce")
    assert code == 5 and "source.tar.gz: holds no gpt2lab/run.py" in err


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_pipe_in_place_of_a_file_is_refused(refused, name, kind):
    refused({}, "expected plain files only|expected an exported", link(name, kind))


@pytest.mark.parametrize("name", ["samples", "figures"])
def test_a_folder_that_is_a_link_is_refused(refused, name):
    refused({}, "expected plain files only", link(name))


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [
        ("metrics.csv", 3 << 30, 256 << 20),
        ("config.yaml", 50 << 20, 256 << 10),
        ("overrides.yaml", 50 << 20, 256 << 10),
        ("README.md", 100 << 20, 1 << 20),
        ("notes.md", 2 << 20, 1 << 20),
        ("summary.json", 3 << 30, 64 << 20),
        ("provenance.json", 3 << 30, 64 << 20),
        ("status.json", 3 << 30, 64 << 20),
        ("samples/0.txt", 3 << 30, 1 << 20),
        ("source.tar.gz", 3 << 30, 256 << 20),
    ],
)
def test_a_file_beyond_all_measure_is_refused_before_it_is_read(refused, name, size, limit):
    refused({name: b"x"}, f"{name}': it has {size:,} bytes, at most {limit:,}", **{name: size})


@pytest.mark.parametrize("name", ["../../../outside/notes.md", "/etc/passwd", "a/../../b", "\x1b[2J", ".git/config"])
def test_a_name_that_leaves_the_folder_is_refused(refused, name):
    refused({name: b""}, "manifest.json lists .*: (its name is not|no experiment has a file)")


@pytest.mark.parametrize("name", ["README.md", "config.yaml", "provenance.json", "status.json", "summary.json"])
def test_an_experiment_without_a_file_that_each_has_is_refused(refused, name):
    refused({name: None}, f"{name}: missing; every experiment has one")


ALIASES = "\n".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" if i else "a0: &a0 [x]" for i in range(30))
MERGES = "\n".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" if i else "a0: &a0 {x: 1}" for i in range(30))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Each of the first six ends the process when libyaml's loader follows it down the C stack.
        ("[" * 200_000, "nests deeper than 100"),
        ("{a: " * 60_000, "nests deeper than 100"),
        ("- " * 100_000, "nests deeper than 100"),
        ("? " * 100_000, "nests deeper than 100"),
        ("\n".join(" " * n + "a:" for n in range(700)), "nests deeper than 100"),
        ("\u2028".join(" " * n + "a:" for n in range(700)), "nests deeper than 100"),
        (ALIASES, "by an alias"),
        ("a: &a [*a]", "by an alias"),
        (MERGES, "by an alias"),
        ("a: 1" + ":1" * 100_000, "a number of 200001 digits"),
        ("a: " + "1" * 5000, "a number of 5000 digits"),
        ("a: " + "1" * 900, "a number of 900 digits"),
        ("a: 9223372036854775808", "a number of 19 digits"),
        ("a: .nan", "a value that no record has"),
        ("a: 2020-01-01", "a value that no record has"),
        ("a: !!binary aGk=", "a value that no record has"),
        ("a: ${oc.env:HOME}", "resolved values only"),
        ("a: !!python/object/apply:os.mkdir [made]", "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("a: 2020-01-99", "day is out of range"),
        (b"a: \xff", "(can't decode byte|invalid)"),
        ("a: \x1b[31m", "(special|control) characters are not allowed"),
        ("a: 'open", "(end of stream|unexpected end)"),
        ("'a`b': 1", "config.yaml: 'a`b' is no column name"),
        ("\n".join(f"key{n}: 1" for n in range(3000)), "config.yaml: 3,000 names, at most 300"),
        ("[]", "expected a mapping, got list"),
        ("", "expected a mapping, got NoneType"),
    ],
)
def test_a_config_that_is_none_is_refused(refused, content, message):
    refused({"config.yaml": content if isinstance(content, bytes) else content.encode()}, message)


@pytest.mark.parametrize("override", ["--multirun", "-cd /tmp", "", "a b=1", "[1]"])
def test_an_override_that_is_an_option_is_refused(refused, override):
    refused({"overrides.yaml": json.dumps([override]).encode()}, "is not an override")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"a": ' + b"1" * 400 + b"}", "a number of 400 digits"),
        (b'{"a": NaN}', "a value that no record has"),
        (b'{"a": "\\ud800"}', "a value that no record has"),
        (b'{"version": 9}', "version '9', and this gpt2lab reads version 1"),
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"_rowid_": 1}', "'_rowid_' is no column name"),
        (b'{"a": {"b\\u0000": 1}}', r"summary.json: 'a\.b\\x00' is no column name"),
        (json.dumps({f"key{n}": n for n in range(3000)}).encode(), "summary.json: 3,000 names, at most 300"),
    ],
)
def test_a_summary_that_is_none_is_refused(refused, content, message):
    refused({"summary.json": content}, message)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("status.json", {"state": "gone"}, "state is 'gone'"),
        ("provenance.json", {"data": [1], "model": "x"}, "no report can be made"),
    ],
)
def test_a_record_that_no_report_can_be_made_of_is_refused(refused, exported, name, change, message):
    refused({name: json.dumps({**json.loads(exported[name]), **change}).encode()}, message)


def test_metrics_and_source_are_read(refused):
    refused({"metrics.csv": b"step,tokens\n1,x\n"}, r"metrics\.csv, line 2: damaged, tokens is 'x'")
    for name in ("run", "number", "job", "seed", "name", "status", "Optim.Beta1"):
        refused({"metrics.csv": f"step,{name}\n0,1\n".encode()}, f"metrics.csv: {name.lower()} is the name of another")
    wide = ",".join(["step", *(f"column{n}" for n in range(3000))])
    refused({"metrics.csv": f"{wide}\n0{',1' * 3000}\n".encode()}, r"metrics\.csv: 3,\d+ names, at most 300")
    refused({"source.tar.gz": b"no gzip"}, r"source\.tar\.gz: damaged, it is not gzip")
    refused({"more.yaml": b"a: 1"}, "no experiment has a file of this name")


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
    shutil.rmtree(archive)
    export_experiment(path, Path("hostile.tar"))
    assert ending("import")[0] == 0
    path.rename(archive)
    assert {name: ending(name)[0] for name in SOUND} == dict.fromkeys(SOUND, 0)


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
    for command in ("show", "verify", "export"):
        code, _, err = ending(command)
        assert (code, err) == (0, ""), command
    assert (archive / "notes.md").read_bytes() == notes
