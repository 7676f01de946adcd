import gzip
import io
import tarfile
from pathlib import Path

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record import unpack
from gpt2lab.record.source_archive import find_source_root, source_hash, write_source_archive
from gpt2lab.record.unpack import unpack_source


def entry(name: str, content: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write_tar(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(gzip.compress(buffer.getvalue()))
    return path


def refusal(tmp_path: Path, path: Path) -> str:
    """Return why `path` is refused, after seeing that nothing was written."""
    target = tmp_path / "inside" / "target"
    target.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError) as error:
        unpack_source(path, target)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value)


def test_the_source_that_runs_comes_back_byte_by_byte_with_its_hash(tmp_path):
    root = find_source_root()
    write_source_archive(tmp_path / "source.tar.gz", root)
    (tmp_path / "out").mkdir()
    assert unpack_source(tmp_path / "source.tar.gz", tmp_path / "out") == source_hash(root)
    assert source_hash(tmp_path / "out") == source_hash(root)
    assert (tmp_path / "out/gpt2lab/run.py").read_bytes() == (root / "gpt2lab/run.py").read_bytes()


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../evil", "a/../../evil", "a//b", "./a", "..", "a\\b", "a\nb", "a/\x1b[2J", "n" * 300]
)
def test_a_name_that_leads_elsewhere_or_cannot_be_shown_is_refused(tmp_path, name):
    path = write_tar(tmp_path / "source.tar.gz", entry("fine"), entry(name))
    message = refusal(tmp_path, path)
    assert "refused" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_link_a_device_or_a_folder_is_refused(tmp_path, kind):
    hostile = entry("gpt2lab/run.py", b"", type=kind, linkname="/etc/passwd")
    assert "not a plain file" in refusal(tmp_path, write_tar(tmp_path / "source.tar.gz", entry("a"), hostile))


def test_a_sparse_file_is_refused(tmp_path):
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
    sparse = entry("big", b"1\n0\n1\n".ljust(512, b"\0") + b"x", pax_headers=headers)
    assert "not a plain file" in refusal(tmp_path, write_tar(tmp_path / "source.tar.gz", sparse))


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_a_name_that_comes_twice_is_refused(tmp_path, names):
    path = write_tar(tmp_path / "source.tar.gz", *(entry(name) for name in names))
    assert "comes twice" in refusal(tmp_path, path)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_PACKED_BYTES", 50, "at most 50 "),
        ("MAX_BYTES", 2000, "unpacks to more"),
        ("MAX_FILE_BYTES", 4, "'b' has 5 bytes"),
        ("MAX_FILES", 1, "more than 1 files"),
    ],
)
def test_what_is_above_a_limit_is_refused(tmp_path, monkeypatch, limit, value, words):
    monkeypatch.setattr(unpack, limit, value)
    path = write_tar(tmp_path / "source.tar.gz", entry("a", b"1234"), entry("b", b"12345"))
    assert words in refusal(tmp_path, path)


def test_a_bomb_is_not_inflated_further_than_the_limit(tmp_path):
    path = tmp_path / "source.tar.gz"
    path.write_bytes(gzip.compress(bytes(2 * unpack.MAX_BYTES)))
    assert path.stat().st_size < 2**20
    assert "unpacks to more than 128 MiB" in refusal(tmp_path, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress(b"no tar" * 100, mtime=0),  # the moment would be part of the test's name
        gzip.compress(b"x" * 9999, mtime=0)[:-4],
        gzip.compress(b"", mtime=0) * 2,
    ],
    ids=["empty", "no gzip", "no tar", "cut short", "two empty ones"],
)
def test_a_damaged_archive_is_one_line(tmp_path, content):
    path = tmp_path / "source.tar.gz"
    path.write_bytes(content)
    message = refusal(tmp_path, path)
    assert "damaged" in message
    assert "\n" not in message
