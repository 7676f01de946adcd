"""Reading source.tar.gz, which may come from a stranger: plain files inside one folder, or nothing at all."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, read_bytes

# About a hundred times what this project's own source needs.
MAX_PACKED_BYTES = 64 * 2**20
MAX_BYTES = 128 * 2**20  # unpacked, tar headers counted
MAX_FILE_BYTES = 32 * 2**20
MAX_FILES = 10_000
_MAX_NAME = 240  # characters of a whole name


def unpack_source(path: Path, directory: Path) -> str:
    """Write the files of the source archive `path` below the empty `directory`; return its source hash.

    The hash is the SHA-256 of the archive before compression, as `source_hash` in provenance.json. Raises
    ArchiveError, naming the entry, for an absolute name, `..`, a link, a device, a name that comes twice, and for
    entries or totals above the limits of this module; every entry is checked before the first is written.
    """
    files, source_hash = read_source(path)
    for name, executable, content in files:
        target = directory / name
        with disk_errors("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content)
            target.chmod(0o755 if executable else 0o644)
    return source_hash


def read_source(path: Path) -> tuple[list[tuple[str, bool, bytes]], str]:
    """Return (name, executable, content) of each file of the source archive `path`, and its source hash.

    Raises ArchiveError as `unpack_source` does.
    """
    tar = _inflate(path)
    return list(_entries(path, tar)), hashlib.sha256(tar).hexdigest()


def _inflate(path: Path) -> bytes:
    """Return the decompressed archive, reading no more than the limits allow."""
    packed = read_bytes(path)
    if len(packed) > MAX_PACKED_BYTES:
        raise ArchiveError(f"{path}: has {len(packed):,} bytes: refused, at most {MAX_PACKED_BYTES:,} are allowed")
    stream = zlib.decompressobj(wbits=31)  # gzip
    try:
        tar = stream.decompress(packed, MAX_BYTES + 1)
    except zlib.error as error:
        raise ArchiveError(f"{path}: damaged, it is not gzip ({error})") from None
    if len(tar) > MAX_BYTES:
        raise ArchiveError(f"{path}: unpacks to more than {MAX_BYTES >> 20} MiB: refused, no source needs that")
    if not stream.eof or stream.unused_data:
        raise ArchiveError(f"{path}: damaged, the compressed data ends {'late' if stream.eof else 'early'}")
    return tar


def _entries(path: Path, content: bytes) -> Iterator[tuple[str, bool, bytes]]:
    """Yield (name, executable, content) of each file, each checked against all before it."""
    seen: set[str] = set()
    folders: set[str] = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            while (member := tar.next()) is not None:
                name = _checked_name(path, member.name)
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    raise ArchiveError(f"{path}: {name!r} is not a plain file: refused, a source archive has no others")
                if member.size > MAX_FILE_BYTES:
                    raise ArchiveError(
                        f"{path}: {name!r} has {member.size:,} bytes: refused, at most {MAX_FILE_BYTES:,} are allowed"
                    )
                parents = {str(parent) for parent in Path(name).parents}
                if name in seen or name in folders or parents & seen:
                    raise ArchiveError(f"{path}: {name!r} comes twice: refused")
                seen.add(name)
                folders |= parents
                if len(seen) > MAX_FILES:
                    raise ArchiveError(f"{path}: holds more than {MAX_FILES:,} files: refused")
                file = tar.extractfile(member)
                assert file is not None, "a plain file has content"
                data = file.read()
                if len(data) != member.size:
                    raise ArchiveError(f"{path}: damaged, {name!r} is cut off")
                yield name, bool(member.mode & 0o100), data
    except ArchiveError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise ArchiveError(f"{path}: damaged, it is not a tar archive ({error})") from None


def _checked_name(path: Path, name: str) -> str:
    leads_elsewhere = any(part in ("", ".", "..") for part in name.split("/"))
    if leads_elsewhere or len(name) > _MAX_NAME or not name.isprintable() or "\\" in name:
        raise ArchiveError(
            f"{path}: {name[:_MAX_NAME]!r} is no name that a source archive may hold: refused; expected folder/file, "
            f"relative, without .., at most {_MAX_NAME} characters"
        )
    return name
