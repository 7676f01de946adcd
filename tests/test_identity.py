"""Identity by code: what counts as the same code, and how the code of an older run is known."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from test_architecture import ARROWS

from gpt2lab.errors import ArchiveError
from gpt2lab.record import identity
from gpt2lab.record.identity import RUN_PARTS, code_hash, first_code_hash, recorded_code_hash, report_hash
from gpt2lab.record.source_archive import write_source_archive
from gpt2lab.record.unpack import unpack_source

PROJECT = Path(__file__).parent.parent
CODE = [
    "gpt2lab/compose/__init__.py",
    "gpt2lab/data/shards.py",
    "gpt2lab/engine/cuda/ops/gelu.py",
    "gpt2lab/errors.py",
    "gpt2lab/model/params.py",
    "gpt2lab/record/metrics.py",
    "gpt2lab/run.py",
    "gpt2lab/schema/run.py",
    "gpt2lab/sweep/plan.py",
    "gpt2lab/train/loop.py",
    "conf/config.yaml",
    "constraints.txt",
    "cuda/gelu.cu",
    "cuda/band.cuh",
    "cuda/host/runtime.h",
]
OTHER = [
    "README.md",
    "Makefile",
    "LICENSE",
    "pyproject.toml",
    "gpt2lab/__init__.py",
    "gpt2lab/archive/store.py",
    "gpt2lab/cli/main.py",
    "gpt2lab/data/README.md",
    "gpt2lab/engine/cuda/README.md",
    "gpt2lab/report/summary.py",
    "gpt2lab/report/templates/run.md.j2",
    "cuda/README.md",
    "tests/test_loop.py",
    "tools/bench.py",
    "docs/x.md",
]


@pytest.fixture
def checkout(tmp_path) -> Path:
    for name in (*CODE, *OTHER):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).write_text(f"of {name}\n")
    return tmp_path / "checkout"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(identity, "_known", {})


def changed(path: Path) -> bytes:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    return content


@pytest.mark.parametrize("name", CODE)
def test_one_byte_of_what_can_change_a_number_is_other_code(checkout, name):
    before = code_hash(checkout)
    changed(checkout / name)
    assert code_hash(checkout) != before


@pytest.mark.parametrize("name", OTHER)
def test_one_byte_of_anything_else_is_the_same_code(checkout, name):
    before = code_hash(checkout)
    changed(checkout / name)
    assert code_hash(checkout) == before


def test_the_code_hash_is_what_sha256sum_gives(checkout):
    lines = [f"{hashlib.sha256((checkout / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(CODE)]
    assert code_hash(checkout) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_new_file_and_a_new_name_are_other_code(checkout):
    hashes = {code_hash(checkout)}
    (checkout / "gpt2lab/train/new.py").touch()
    hashes.add(code_hash(checkout))
    (checkout / "gpt2lab/train/new.py").rename(checkout / "gpt2lab/train/newer.py")
    hashes.add(code_hash(checkout))
    assert len(hashes) == 3


def test_of_every_part_of_the_package_it_is_settled_whether_it_is_code():
    assert set(ARROWS) - {""} - RUN_PARTS == {"archive", "cli", "report"}


def test_report_code_is_what_a_report_imports(checkout):
    before = report_hash(checkout)
    for name in ("gpt2lab/train/loop.py", "README.md", "gpt2lab/cli/main.py", "constraints.txt"):
        changed(checkout / name)
    assert report_hash(checkout) == before
    for name in ("gpt2lab/report/summary.py", "gpt2lab/report/templates/run.md.j2", "gpt2lab/record/metrics.py"):
        before = report_hash(checkout)
        changed(checkout / name)
        assert report_hash(checkout) != before


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="there is no gpt2lab package in it"):
        code_hash(tmp_path)


def test_an_older_run_is_of_the_code_in_its_archived_source(checkout, tmp_path):
    source_hash = write_source_archive(tmp_path / "source.tar.gz", checkout)
    assert first_code_hash(tmp_path, {"source_hash": source_hash}) == code_hash(checkout)
    assert first_code_hash(tmp_path, {"source_hash": source_hash, "code_hash": "c0de"}) == "c0de"


def test_an_archive_is_read_once(checkout, tmp_path):
    source_hash = write_source_archive(tmp_path / "source.tar.gz", checkout)
    found = first_code_hash(tmp_path, {"source_hash": source_hash})
    (tmp_path / "source.tar.gz").unlink()
    assert first_code_hash(tmp_path, {"source_hash": source_hash}) == found


def test_a_source_that_is_gone_is_the_same_code_only_as_itself(tmp_path):
    assert first_code_hash(tmp_path, {"source_hash": "50" * 32}) == "50" * 32
    assert first_code_hash(tmp_path, {}) is None
    assert first_code_hash(tmp_path, {"code_hash": [], "source_hash": {}}) is None


def test_an_archive_that_is_damaged_or_of_other_source_is_refused(checkout, tmp_path):
    write_source_archive(tmp_path / "source.tar.gz", checkout)
    with pytest.raises(ArchiveError, match="it is not the source that ran"):
        first_code_hash(tmp_path, {"source_hash": "50" * 32})
    (tmp_path / "source.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ArchiveError, match=r"source\.tar\.gz: damaged"):
        first_code_hash(tmp_path, {"source_hash": "50" * 32})


def test_a_run_that_was_resumed_with_other_code_is_of_no_single_code(tmp_path):
    def identity(*resumes: str | None) -> str | None:
        entries = [{"step": 10} | ({"code_hash": code} if code else {}) for code in resumes]
        return recorded_code_hash(tmp_path, {"code_hash": "a"}, {"state": "finished", "resumes": entries})

    for status in ({}, {"resumes": 3}, {"resumes": [None, {"code_hash": {}}]}):
        assert recorded_code_hash(tmp_path, {"code_hash": "a"}, status) == "a"
    assert identity(None) == identity("a") == identity("a", None, "a") == "a"  # older entries name no code
    assert identity("b") == identity("a", "b", "b")
    assert len({identity("a"), identity("b"), identity("c"), identity("b", "a"), identity("b", "c"), "b", "c"}) == 7


@pytest.mark.parametrize("number", [1, 4, 7])
def test_the_code_of_a_committed_experiment_is_known(number, tmp_path):
    [experiment] = (PROJECT / "experiments").glob(f"{number:05d}-*")
    unpack_source(experiment / "source.tar.gz", tmp_path)
    runs = [experiment, *experiment.glob("runs/*")]
    records = [[json.loads((run / f"{name}.json").read_text()) for name in ("provenance", "status")] for run in runs]
    found = {recorded_code_hash(run, *record) for run, record in zip(runs, records, strict=True)}
    assert found == {code_hash(tmp_path)}
    shutil.rmtree(tmp_path / "gpt2lab/report")
    (tmp_path / "README.md").write_text("another page")
    assert found == {code_hash(tmp_path)}
