"""The source that ran, as one deterministic archive: the same files give the same bytes on every machine."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, write_atomic
from gpt2lab.record.sweep import sweep_of

SOURCE_ARCHIVE = "source.tar.gz"
SOURCE_PATHS = ("gpt2lab", "cuda", "conf", "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE")

# A wheel carries these inside the package folder (see force-include in pyproject.toml).
_INSIDE_WHEEL = ("cuda", "conf", "pyproject.toml", "constraints.txt")


def find_source_root() -> Path:
    """Return the folder that holds the running gpt2lab package: a checkout, or site-packages."""
    return Path(__file__).resolve().parents[2]


def source_of(run_dir: Path) -> Path:
    """Return where the source archive of a run is; archived runs of a sweep share the one above them."""
    own, sweep = run_dir / SOURCE_ARCHIVE, sweep_of(run_dir)
    return own if sweep is None or own.is_file() else sweep / SOURCE_ARCHIVE


def write_source_archive(path: Path, source_root: Path) -> str:
    """Write source.tar.gz and return its `source_hash`.

    It holds the files below SOURCE_PATHS that exist on disk, tracked by git or not, with no times, owners or
    hidden and compiled files. An installed wheel gives the same names as a checkout. Raises ArchiveError when the
    disk is full, or `source_root` holds no gpt2lab.
    """
    tar = _tar(source_root)
    packed = io.BytesIO()
    # gzip.compress writes another header in some Python versions.
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(tar)
    write_atomic(path, packed.getvalue())
    return hashlib.sha256(tar).hexdigest()


def source_hash(source_root: Path) -> str:
    """Return the SHA-256 of the archive before compression: `gunzip -c source.tar.gz | sha256sum`.

    The compressed bytes may differ between versions of zlib; these do not.
    """
    return hashlib.sha256(_tar(source_root)).hexdigest()


def source_files(source_root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the archive, file). Raises ArchiveError when there is no gpt2lab in `source_root`."""
    package = source_root / "gpt2lab"
    if not (package / "__init__.py").is_file():
        raise ArchiveError(f"{source_root}: cannot archive the source: there is no gpt2lab package in it")
    # Beside an installed package lie other people's folders, cuda among them.
    installed = (package / "pyproject.toml").is_file()
    for name in ("gpt2lab", *_INSIDE_WHEEL) if installed else SOURCE_PATHS:
        top = package / name if installed and name != "gpt2lab" else source_root / name
        if top.is_file():
            yield name, top
            continue
        for folder, subfolders, files in os.walk(top):
            hidden = {entry for entry in (*subfolders, *files) if entry.startswith(".") or entry == "__pycache__"}
            if installed and Path(folder) == package:
                hidden |= set(_INSIDE_WHEEL)
            subfolders[:] = [entry for entry in subfolders if entry not in hidden]
            for entry in files:
                file = Path(folder) / entry
                if entry not in hidden and file.suffix != ".pyc" and file.is_file():
                    yield f"{name}/{file.relative_to(top).as_posix()}", file


def _tar(source_root: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, file in sorted(source_files(source_root)):
            with disk_errors("read", file):
                content = file.read_bytes()
                executable = file.stat().st_mode & 0o100
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o755 if executable else 0o644
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
