"""`gpt2lab export` and `import`: one tar, the same bytes every time, and refused when anything in it is wrong."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from test_store import archive, make_run

from gpt2lab.archive import import_check, list_experiments, transfer
from gpt2lab.archive.transfer import export_experiment, import_experiment
from gpt2lab.archive.verify import verify
from gpt2lab.errors import ArchiveError

Entry = tuple[tarfile.TarInfo, bytes]
FOLDER = "00001-first-light"


@pytest.fixture
def archived_run(tmp_path) -> Path:
    return archive(make_run(tmp_path / "runs" / "a"), tmp_path / "experiments")


@pytest.fixture
def exported(archived_run, tmp_path) -> Path:
    return export_experiment(archived_run, tmp_path / "one.tar")


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def read_entries(path: Path) -> list[Entry]:
    with tarfile.open(path, "r:") as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]


def write_entries(path: Path, entries: list[Entry], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for info, content in entries:
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def refused(path: Path, root: Path, match: str) -> None:
    """Import must say one line, and leave the archive as it was."""
    root.mkdir(exist_ok=True)
    before = contents(root)
    outside = sorted(root.parent.iterdir())
    with pytest.raises(ArchiveError, match=match) as caught:
        import_experiment(path, root)
    assert "\n" not in str(caught.value) and ".staging" not in str(caught.value)
    assert contents(root) == before
    assert [found.name for found in root.iterdir() if found.name.startswith(".staging")] == []
    assert sorted(root.parent.iterdir()) == outside


def test_an_experiment_goes_to_another_archive_and_only_its_number_changes(exported, archived_run, tmp_path):
    root = tmp_path / "other"
    archive(make_run(tmp_path / "runs" / "b"), root, name="another")
    path = import_experiment(exported, root)
    assert path == root / "00002-first-light"
    expected = contents(archived_run)
    del expected["model.bin"]
    assert contents(path) == expected
    verdict = verify(path)
    assert (verdict.faults, verdict.absent) == ((), ("model.bin",))
    assert [found.number for found in list_experiments(root)] == [1, 2]


def test_the_same_experiment_gives_the_same_bytes_with_or_without_its_weights_at_hand(exported, archived_run, tmp_path):
    (archived_run / "model.bin").unlink()
    for path in archived_run.rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o700)
    assert export_experiment(archived_run, tmp_path / "again.tar").read_bytes() == exported.read_bytes()


def test_weights_travel_where_asked_for(archived_run, tmp_path):
    file = export_experiment(archived_run, tmp_path / "heavy.tar", weights=True)
    assert contents(import_experiment(file, tmp_path / "other")) == contents(archived_run)
    (archived_run / "model.bin").unlink()
    with pytest.raises(ArchiveError, match=r"missing model\.bin"):
        export_experiment(archived_run, tmp_path / "heavier.tar", weights=True)


def test_what_changed_since_it_was_archived_is_not_exported(archived_run, tmp_path):
    (archived_run / "notes.md").write_text("later")
    with pytest.raises(ArchiveError, match=r"notes\.md was edited .* gpt2lab report"):
        export_experiment(archived_run, tmp_path / "one.tar")
    (archived_run / "metrics.csv").write_text("tampered")
    (archived_run / "notes.md").unlink()
    with pytest.raises(ArchiveError, match=r"changed metrics\.csv"):
        export_experiment(archived_run, tmp_path / "one.tar")
    assert not (tmp_path / "one.tar").exists()


def test_a_file_is_not_written_over(exported, archived_run):
    before = exported.read_bytes()
    with pytest.raises(ArchiveError, match="such a file already"):
        export_experiment(archived_run, exported)
    assert exported.read_bytes() == before


def test_a_run_that_is_there_already_is_imported_only_by_force(exported, archived_run):
    root = archived_run.parent
    refused(exported, root, "archived already, as 00001-first-light; --force")
    assert import_experiment(exported, root, force=True).name == "00002-first-light"


def test_any_changed_byte_of_a_file_is_refused(exported, tmp_path):
    entries = read_entries(exported)
    for index in range(1, len(entries)):
        changed = [(info, content) for info, content in read_entries(exported)]
        info, content = changed[index]
        changed[index] = (info, bytes([content[0] ^ 1]) + content[1:])
        refused(write_entries(tmp_path / "x.tar", changed), tmp_path / "other", "has sha256 .* its manifest says")
        changed[index] = (info, content + b" ")
        refused(write_entries(tmp_path / "x.tar", changed), tmp_path / "other", "bytes, its manifest says")


def test_a_tar_that_ends_early_is_refused_wherever_it_ends(exported, tmp_path):
    content = exported.read_bytes()
    whole = sum(512 + -(-info.size // 512) * 512 for info, _ in read_entries(exported))
    cut = tmp_path / "cut.tar"
    for length in (0, 1, 511, 512, 700, *range(1024, whole, 1500), whole):
        cut.write_bytes(content[:length])
        refused(cut, tmp_path / "other", "damaged|ends in the middle|not JSON|is missing")


def hostile(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        f"{FOLDER}/../evil",
        f"{FOLDER}/../../evil",
        f"{FOLDER}/unlisted",
        FOLDER,
        f"{FOLDER}/",
        "x",
    ],
)
def test_a_name_outside_the_manifest_is_refused(exported, tmp_path, name):
    path = write_entries(tmp_path / "x.tar", [*read_entries(exported), (hostile(name), b"evil")])
    refused(path, tmp_path / "other", "not a file that its manifest lists|plain files only")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [*b"1234567SxgLK"], ids=chr)
@pytest.mark.parametrize("name", [f"{FOLDER}/metrics.csv", f"{FOLDER}/manifest.json"])
def test_links_devices_folders_and_extension_headers_are_refused(exported, tmp_path, kind, name):
    entries = read_entries(exported)
    index = [info.name for info, _ in entries].index(name)
    header = hostile(name, bytes([kind]), "/etc/passwd").tobuf(tarfile.USTAR_FORMAT)
    raw = tmp_path / "x.tar"
    before = write_entries(raw, entries[:index]).read_bytes()[
        : sum(512 + -(-i.size // 512) * 512 for i, _ in entries[:index])
    ]
    raw.write_bytes(before + header + exported.read_bytes()[len(before) :])
    refused(raw, tmp_path / "other", "plain files only")


def test_a_name_that_comes_twice_is_refused(exported, tmp_path):
    entries = read_entries(exported)
    path = write_entries(tmp_path / "x.tar", [*entries, entries[-1]])
    refused(path, tmp_path / "other", "is there twice")
    path = write_entries(tmp_path / "y.tar", [entries[0], entries[0], *entries[1:]])
    refused(path, tmp_path / "other", r"manifest\.json' is not a file that its manifest lists")


def test_a_listed_file_that_is_missing_is_refused(exported, tmp_path):
    entries = [entry for entry in read_entries(exported) if not entry[0].name.endswith("metrics.csv")]
    refused(write_entries(tmp_path / "x.tar", entries), tmp_path / "other", r"metrics\.csv is missing")


def with_manifest(exported: Path, path: Path, change) -> Path:
    (info, content), *rest = read_entries(exported)
    manifest = json.loads(content)
    change(manifest)
    return write_entries(path, [(info, json.dumps(manifest).encode()), *rest])


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", ".git/hooks/pre-commit", "a\\b", "manifest.json", ""]
)
def test_a_manifest_that_names_a_place_outside_is_refused(exported, tmp_path, name):
    entry = {"sha256": "0" * 64, "bytes": 0, "in_git": True}
    path = with_manifest(exported, tmp_path / "x.tar", lambda manifest: manifest["files"].update({name: entry}))
    refused(path, tmp_path / "other", r"manifest\.json lists")


def test_another_version_is_refused_with_its_number(exported, tmp_path):
    path = with_manifest(exported, tmp_path / "x.tar", lambda manifest: manifest.update(version=2))
    refused(path, tmp_path / "other", r"x\.tar, manifest\.json: version '2', and this gpt2lab reads version 1")


def test_oversized_files_are_refused_before_they_are_read(exported, tmp_path, monkeypatch):
    huge = {"sha256": "0" * 64, "bytes": import_check.MAX_FILE_BYTES + 1, "in_git": True}
    path = with_manifest(exported, tmp_path / "x.tar", lambda manifest: manifest["files"].update({"big": huge}))
    refused(path, tmp_path / "other", "lists 'big': it has 268,435,457 bytes, at most 268,435,456")
    for limit, match in (
        ("MAX_MANIFEST_BYTES", "are read"),
        ("MAX_FILES", "files, at most"),
        ("MAX_RECORD_BYTES", "without"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(transfer, limit, 5)
            refused(exported, tmp_path / "other", f"{match}")


def test_a_size_below_zero_is_refused(exported, tmp_path):
    info = hostile(f"{FOLDER}/metrics.csv")
    info.size = -512
    first = read_entries(exported)[0][0]
    length = 512 + -(-first.size // 512) * 512
    path = tmp_path / "x.tar"
    path.write_bytes(exported.read_bytes()[:length] + info.tobuf(tarfile.GNU_FORMAT))
    refused(path, tmp_path / "other", "has a size of -512")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1024, b"\0" * 100_000, b"not a tar" * 1000, b"\x1f\x8b" + b"x" * 2000]
)
def test_what_is_no_exported_experiment_is_refused(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    refused(tmp_path / "x.tar", tmp_path / "other", "not a tar that gpt2lab|expected an exported|behind the end")
    refused(tmp_path / "nowhere.tar", tmp_path / "other", "cannot read: no such file")


@pytest.mark.parametrize(
    "folder", ["first-light", "00001-First", "../00001-x", "00001-", "00001-x/y", "1-x", "00001-" + "x" * 81]
)
def test_a_folder_that_no_experiment_has_is_refused(exported, tmp_path, folder):
    entries = read_entries(exported)
    for info, _ in entries:
        info.name = info.name.replace(FOLDER, folder)
    refused(write_entries(tmp_path / "x.tar", entries), tmp_path / "other", "begins with NNNNN-name")


def test_something_behind_the_end_is_refused(exported, tmp_path):
    (tmp_path / "x.tar").write_bytes(exported.read_bytes() + b"more")
    refused(tmp_path / "x.tar", tmp_path / "other", "behind the end")


def test_the_commands_say_where_the_experiment_went(archived_run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert command("export", "1") == (f"{FOLDER}.tar\n", "")
    out, _ = command("import", f"{FOLDER}.tar", "--root", "other")
    assert f"other/{FOLDER}" in out
    assert FOLDER in (tmp_path / "other" / "README.md").read_text()
    _, error = command("import", f"{FOLDER}.tar", expect=5)
    assert error.count("\n") == 1 and "archived already" in error
