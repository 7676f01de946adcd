"""One experiment as one tar: the same experiment gives the same bytes, and what is read back is what was written.

The tar comes from anybody, and this is the one place where that matters: what is imported is trusted from then on. It
is read without tarfile's unpacking: plain files only, manifest.json first, every other entry one that the manifest
lists, once, with its size and hash. So there are no links, devices, folders or extension headers to follow, and nothing
is written outside the staging folder or beyond the limits below. Then `import_check` reads every file.
"""

import hashlib
import re
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from gpt2lab.archive.experiments import NUMBER
from gpt2lab.archive.import_check import check_record, refuse_entry
from gpt2lab.archive.manifest import MANIFEST, is_weights, read_manifest
from gpt2lab.archive.staging import staging_folder
from gpt2lab.archive.store import claim_number
from gpt2lab.archive.verify import verify
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, read_json

MAX_FILES = 10_000
MAX_MANIFEST_BYTES = 4 << 20
MAX_RECORD_BYTES = 1 << 30  # of all files but weights
_BLOCK = 512
_END = 20 * _BLOCK  # zeros that pad a tar
_PIECE = 1 << 20
_FOLDER = re.compile(NUMBER.pattern + r"([a-z0-9-]{1,80})")


def export_experiment(directory: Path, output: Path, *, weights: bool = False) -> Path:
    """Write the experiment `directory` as one tar to `output`, which must not exist; return `output`.

    Weights are left out unless `weights`, so that a clone without them exports the same bytes. Raises ArchiveError
    when a file is not as the manifest has it, a limit is exceeded, or `output` cannot be written.
    """
    verdict = verify(directory, weights=weights)
    if verdict.notes_edited:
        raise ArchiveError(f"{directory}: notes.md was edited since its report; take it in with gpt2lab report first")
    for fault in verdict.faults:
        raise ArchiveError(f"{directory}: {fault.kind} {fault.file}: {fault.why}; only a sound experiment is exported")
    manifest = read_manifest(directory)
    _check_manifest(directory / MANIFEST, manifest)
    names = [MANIFEST, *sorted(name for name in manifest if weights or not is_weights(name))]
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}.tmp")
    with disk_errors("write", output):
        if output.exists():
            raise ArchiveError(f"{output}: there is such a file already; name another with --output")
        try:
            with tarfile.open(partial, "x", format=tarfile.USTAR_FORMAT) as tar:
                for name in names:
                    _add(tar, directory, name)
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    return output


def import_experiment(
    file: Path, root: Path, *, write_report: Callable[[Path, str], None] | None = None, force: bool = False
) -> Path:
    """Put the experiment in the tar `file` into the archive below `root` under the next number; return its directory.

    `write_report(directory, title)` is tried on a copy of the record; `force` takes a run that is there already once
    more. Raises ArchiveError, and leaves the archive as it was, when anything in the tar is not as its manifest says,
    is no plain file or too large, or is not what a run leaves behind.
    """
    with disk_errors("read", file):
        source = file.open("rb")
    with source:
        folder, size = _next_entry(source, file)
        match = _FOLDER.fullmatch(folder.removesuffix(f"/{MANIFEST}"))
        if not match or not folder.endswith(f"/{MANIFEST}"):
            raise ArchiveError(f"{file}: expected an exported experiment, which begins with NNNNN-name/{MANIFEST}")
        if size > MAX_MANIFEST_BYTES:
            raise ArchiveError(f"{file}: {MANIFEST} has {size:,} bytes, at most {MAX_MANIFEST_BYTES:,} are read")
        with disk_errors("import into", root):
            root.mkdir(parents=True, exist_ok=True)
        with staging_folder(root, "import into") as staging:
            try:
                with disk_errors("import into", staging):
                    _copy_entry(source, file, staging / MANIFEST, size)
                    manifest = read_manifest(staging)
                    _check_manifest(staging / MANIFEST, manifest)
                    _copy_entries(source, file, staging, f"{match[0]}/", manifest)
                check_record(staging, (name for name in manifest if not is_weights(name)))
                for fault in verify(staging, write_report=write_report).faults:
                    if fault.kind == "refused":  # a report that differs is of another version
                        raise ArchiveError(f"{staging / fault.file}: {fault.why}")
                run_id = read_json(staging / "provenance.json").get("run_id")
                step = read_json(staging / "status.json").get("step")
                return claim_number(staging, root, match[2], run_id=run_id, step=step, force=force)
            except ArchiveError as error:
                raise ArchiveError(str(error).replace(f"{staging}/", f"{file}, ")) from None


def _check_manifest(path: Path, manifest: dict[str, dict[str, Any]]) -> None:
    if len(manifest) > MAX_FILES:
        raise ArchiveError(f"{path}: {len(manifest):,} files, at most {MAX_FILES:,} go into one tar")
    for name, entry in manifest.items():
        refusal = refuse_entry(name, entry)
        if refusal:
            raise ArchiveError(f"{path} lists {name[:200]!r}: {refusal}")
    total = sum(entry["bytes"] for name, entry in manifest.items() if not is_weights(name))
    if total > MAX_RECORD_BYTES:
        raise ArchiveError(f"{path}: {total:,} bytes without weights, at most {MAX_RECORD_BYTES:,} go into a tar")


def _add(tar: tarfile.TarFile, directory: Path, name: str) -> None:
    info = tarfile.TarInfo(f"{directory.name}/{name}")  # no time, owner or mode of this machine
    info.size = (directory / name).stat().st_size
    try:
        with (directory / name).open("rb") as content:
            tar.addfile(info, content)
    except ValueError:
        raise ArchiveError(f"{directory / name}: its name is too long for a tar; at most 100 bytes") from None


def _next_entry(source: BinaryIO, file: Path) -> tuple[str, int]:
    """Return name and size of the entry that begins here; ("", 0) at the end of the tar."""
    header = source.read(_BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        rest = source.read(_END + 1)
        if len(rest) > _END or rest.strip(b"\0"):
            raise ArchiveError(f"{file}: holds something behind the end of the tar") from None
        return "", 0
    except (tarfile.TarError, ValueError) as error:
        raise ArchiveError(f"{file}: damaged or not a tar that gpt2lab export wrote ({error})") from None
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        what = "a link" if info.islnk() or info.issym() else f"of type {info.type!r}"
        raise ArchiveError(f"{file}: {info.name[:200]!r} is {what}; expected plain files only")
    if info.size < 0:
        raise ArchiveError(f"{file}: {info.name[:200]!r} has a size of {info.size}")
    return info.name, info.size


def _copy_entries(source: BinaryIO, file: Path, staging: Path, folder: str, manifest: dict[str, Any]) -> None:
    waiting = dict(manifest)
    while True:
        path, size = _next_entry(source, file)
        if not path:
            break
        name = path.removeprefix(folder)
        if name == path or name not in manifest:
            raise ArchiveError(f"{file}: {path[:200]!r} is not a file that its manifest lists")
        if name not in waiting:
            raise ArchiveError(f"{file}: {name!r} is there twice")
        entry = waiting.pop(name)
        if size != entry["bytes"]:
            raise ArchiveError(f"{file}: {name} has {size:,} bytes, its manifest says {entry['bytes']:,}")
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        digest = _copy_entry(source, file, staging / name, size)
        if digest != entry["sha256"]:
            raise ArchiveError(f"{file}: {name} has sha256 {digest[:12]}…, its manifest says {entry['sha256'][:12]}…")
    missing = [name for name in waiting if not is_weights(name)]
    if missing:
        raise ArchiveError(f"{file}: {missing[0]} is missing, and its manifest lists it")


def _copy_entry(source: BinaryIO, file: Path, target: Path, size: int) -> str:
    """Write the next `size` bytes into the new file `target`; return their SHA-256."""
    digest = hashlib.sha256()
    with target.open("xb") as output:
        left = size
        while left:
            piece = source.read(min(left, _PIECE))
            if not piece:
                raise ArchiveError(f"{file}: ends in the middle of {target.name}")
            output.write(piece)
            digest.update(piece)
            left -= len(piece)
    source.read(-size % _BLOCK)
    return digest.hexdigest()
