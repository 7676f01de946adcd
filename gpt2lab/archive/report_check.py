"""Whether a report follows from its record: it is written once more, into a temporary folder, and compared.

summary.json names the code and the libraries that wrote the report. The same ones write the same bytes. Others may
write another page, other figures and other sentences, but no other number or name in summary.json: a key keeps its
meaning, and what is computed in another way gets another key.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt2lab.archive.experiments import read_summary
from gpt2lab.archive.manifest import is_report, is_weights
from gpt2lab.errors import ArchiveError, Gpt2labError
from gpt2lab.record.disk import disk_errors
from gpt2lab.record.identity import WRITTEN_BY
from gpt2lab.record.values import is_number

# Libraries and processors may differ in the last digits of a mean or a logarithm, and in what is left of 0.
_REL_TOLERANCE, _ABS_TOLERANCE = 1e-9, 1e-12
_MAX_LENGTH = 80  # of a value in words
_NOT_COMPARED = {"text", "rule", WRITTEN_BY}  # keys of summary.json: sentences, and what wrote them
# Keys that came with later report code, so that older summaries lack them.
_ADDED_LATER = {"flop_per_token_dense", "flop_per_token_computed"}
_SUMMARY, _PAGE = "summary.json", "README.md"


def check_report(
    directory: Path, manifest: dict[str, Any], write_report: Callable[[Path, str], None], *, skipped: set[str]
) -> tuple[list[tuple[str, str, str]], str | None]:
    """Return the faults (file, kind, why) of the report in `directory`, and what else wrote it, if it differs for that.

    `write_report(directory, title)` writes the report of a record. Files in `skipped` are not compared.
    """
    try:
        archived = read_summary(directory)
    except ArchiveError as error:
        return [(_SUMMARY, "refused", str(error))], None
    with tempfile.TemporaryDirectory(prefix="gpt2lab-verify-") as folder:
        copy = Path(folder) / directory.name
        _copy_record(directory, manifest, copy)
        try:
            write_report(copy, str(archived.get("name")))
            today = read_summary(copy)
        except Exception as error:  # a record from strangers: whatever it does to the report is said, not raised
            why = str(error).replace(str(copy), str(directory))
            kind = "" if isinstance(error, Gpt2labError) else f"{type(error).__name__}: "
            return [(_PAGE, "refused", f"no report can be made of this record ({kind}{why})")], None
        differing = {file: (kind, why) for file, kind, why in _differing_files(directory, copy, manifest)}
    writer = _other_writer(archived.get(WRITTEN_BY), today.get(WRITTEN_BY))
    values = list(_differing_values(archived, today))
    if values:
        more = f", and {len(values) - 1} more" if len(values) > 1 else ""
        differing[_SUMMARY] = ("stale", f"{values[0]}{more}")
    elif writer is not None and archived | {WRITTEN_BY: None} == today | {WRITTEN_BY: None}:
        differing.pop(_SUMMARY, None)
    faults = [
        (file, kind, why)
        for file, (kind, why) in sorted(differing.items())
        if file not in skipped
        and (writer is None or (file == _SUMMARY and values) or (file == _PAGE and kind == "missing"))
    ]
    return faults, writer if differing.keys() - skipped - {file for file, *_ in faults} else None


def _copy_record(directory: Path, manifest: dict[str, Any], copy: Path) -> None:
    """Copy what a report is made of."""
    with disk_errors("copy for its report", directory):
        for name in manifest:
            if not is_weights(name) and not is_report(name) and (directory / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, copy / name)


def _differing_files(directory: Path, copy: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (file, kind, why) of each file of the report that is not as it was written now, in `copy`."""
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    made, listed = ({name for name in some if is_report(name)} for some in (names, manifest))
    for name in sorted(made | listed):
        if name not in made:
            yield name, "stale", "the report of this record has no such file"
        elif name not in listed:
            yield name, "missing", "the report of this record has it"
        elif (directory / name).is_file() and (copy / name).read_bytes() != (directory / name).read_bytes():
            yield name, "stale", "the report of this record has other bytes today"


def _other_writer(archived: Any, today: Any) -> str | None:
    """Say which code and libraries wrote a report, None when they are those of today."""
    if archived == today:
        return None
    today = today or {}
    if not isinstance(archived, dict) or archived.get("report_hash") != today.get("report_hash"):
        return "another version of the report code"
    libraries = [name for name in today if archived.get(name) != today[name]]
    return f"another version of {', '.join(libraries) or 'a library'}"


def _differing_values(archived: Any, today: Any, name: str = "") -> Iterator[str]:
    """Yield, in words, each value of the archived summary that differs from the record's; a missing key is null.

    Keys that today's summary does not have are not compared: other versions of the report code may write them.
    """
    if isinstance(archived, dict) and isinstance(today, dict):
        for key in today:
            if key not in _NOT_COMPARED and (key in archived or key not in _ADDED_LATER):
                yield from _differing_values(archived.get(key), today[key], f"{name}.{key}" if name else key)
    elif isinstance(archived, list) and isinstance(today, list):
        if len(archived) != len(today):
            yield f"{name} has {len(archived)} entries, the record gives {len(today)}"
        for index, pair in enumerate(zip(archived, today, strict=False)):
            yield from _differing_values(*pair, f"{name}.{index}")
    elif is_number(archived) and is_number(today):
        if not math.isclose(archived, today, rel_tol=_REL_TOLERANCE, abs_tol=_ABS_TOLERANCE):
            yield f"{name} is {archived}, the record gives {today}"
    elif archived != today:
        yield f"{name} is {_words(archived, 'missing')}, the record gives {_words(today, 'none')}"


def _words(value: Any, absent: str) -> str:
    return absent if value is None else json.dumps(value)[:_MAX_LENGTH]
