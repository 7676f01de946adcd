"""Which code made a result. Two results are of the same code when no file differs that can change a number or how a
run is carried out. README, reports, commands, tests and tools are no such files.

`source_hash` (see source_archive.py) covers everything that is archived. It is provenance; this is identity.
"""

import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import read_bytes
from gpt2lab.record.source_archive import source_files, source_of
from gpt2lab.record.unpack import read_source
from gpt2lab.record.values import look_up

# Parts of gpt2lab, each a package or one module. The errors set the exit code that a run records of its end.
RUN_PARTS = {"schema", "model", "data", "engine", "train", "compose", "sweep", "record", "run", "errors"}
REPORT_PARTS = {"report", "record", "model", "schema", "errors"}
WRITTEN_BY = "written_by"  # key of summary.json: report_hash, and the versions of the libraries that a report uses

_known: dict[str, str] = {}  # source hash -> code hash, of archives that this process has read


def code_hash(source_root: Path) -> str:
    """Return the SHA-256 of a list of the code: a line `SHA-256  name` per file, as sha256sum prints it, by name.

    The code is RUN_PARTS of gpt2lab, conf/, cuda/ and constraints.txt, without Markdown. Raises ArchiveError when
    there is no gpt2lab in `source_root`, or a file cannot be read.
    """
    return _hash((name, read_bytes(path)) for name, path in source_files(source_root) if _is_code(name))


def report_hash(source_root: Path) -> str:
    """Return the same of the code that writes reports: REPORT_PARTS of gpt2lab with their templates."""
    return _hash((name, read_bytes(path)) for name, path in source_files(source_root) if _part(name) in REPORT_PARTS)


def recorded_code_hash(run_dir: Path, provenance: dict[str, Any], status: dict[str, Any]) -> str | None:
    """Return the code hash of a run, from what its provenance.json and status.json hold: the identity of its code.

    A run that was resumed with other code gets a hash of the list of its codes, which is the hash of no single one.
    Returns None and raises as `first_code_hash` does.
    """
    codes = recorded_code_hashes(run_dir, provenance, status)
    return codes[0] if len(codes) == 1 else hashlib.sha256("\n".join(map(str, codes)).encode()).hexdigest()


def recorded_code_hashes(run_dir: Path, provenance: dict[str, Any], status: dict[str, Any]) -> list[str | None]:
    """Return the hash of each code that a run was trained with, in order; resumed with the same code, it has one.

    Older entries of `resumes` do not record their code. They are left out.
    """
    resumes = status.get("resumes")
    found = [look_up(entry, "code_hash") for entry in resumes] if isinstance(resumes, list) else []
    later = [code for code in found if isinstance(code, str)]
    return [code for code, _ in itertools.groupby([first_code_hash(run_dir, provenance), *later])]


def first_code_hash(run_dir: Path, provenance: dict[str, Any]) -> str | None:
    """Return the hash of the code that a run began with, of an older run that of the source archived with it.

    Where that source is gone, the source hash stands for it: no other code has it. None where nothing is recorded.
    Raises ArchiveError for an archive that is damaged, or not the source that ran.
    """
    if isinstance(recorded := provenance.get("code_hash"), str):
        return recorded
    source_hash, path = provenance.get("source_hash"), source_of(run_dir)
    if not isinstance(source_hash, str):
        return None
    if source_hash in _known or not path.is_file():
        return _known.get(source_hash, source_hash)
    files, found = read_source(path)
    if found != source_hash:
        raise ArchiveError(
            f"{path}: its source hash is {found[:12]}, but provenance.json says {source_hash[:12]}: it is not the "
            "source that ran"
        )
    return _known.setdefault(source_hash, _hash((name, content) for name, _, content in files if _is_code(name)))


def _is_code(name: str) -> bool:
    in_folder = name.startswith(("conf/", "cuda/")) and not name.endswith(".md")
    return in_folder or name == "constraints.txt" or _part(name) in RUN_PARTS


def _part(name: str) -> str | None:
    """Return the part of gpt2lab that a file belongs to, None for Markdown and for what lies outside."""
    top, _, rest = name.partition("/")
    return rest.partition("/")[0].removesuffix(".py") if top == "gpt2lab" and not name.endswith(".md") else None


def _hash(files: Iterable[tuple[str, bytes]]) -> str:
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
