"""What an experiment from a stranger may hold. Import checks it once; every other reader trusts the archive."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from gpt2lab.archive.experiments import read_summary
from gpt2lab.archive.manifest import MANIFEST, is_weights
from gpt2lab.archive.tables import COLUMNS, flat, read_config, read_run
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import read_json
from gpt2lab.record.rundir import Loader, RunDir
from gpt2lab.record.sweep import PLAN, RUNS, is_sweep, read_sweep
from gpt2lab.record.unpack import read_source

MAX_WEIGHTS_BYTES = (8 << 30) - 1  # the largest entry of a ustar header; GPT-2 XL in float32 is 6.2 GB
MAX_FILE_BYTES = 256 << 20  # of a file that is not named below
_MAX_BYTES = {".yaml": 256 << 10, ".json": 64 << 20, ".md": 1 << 20, ".txt": 1 << 20}
MAX_DEPTH = 100  # of YAML; a loader follows it on the C stack, until the process dies
_MAX_DIGITS = 1000  # of a number in YAML: 1:1:1:... in base 60 takes the square of its length
_LARGEST = 2**63
_REQUIRED = ("README.md", "config.yaml", "provenance.json", "status.json", "summary.json")
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w/.@:-]*(=.*)?", re.DOTALL)
_PLAN_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("sweep_id", "name", "metric", "created"), str),
    **dict.fromkeys(("tags", "command", "overrides", "varies", "jobs"), list),
    "hypothesis": (str, type(None)),
    "baseline": dict,
}
_JOB_KINDS = {"number": int, "config_hash": str, "folder": str, "overrides": list, "values": dict, "files": dict}


def refuse_entry(name: str, entry: dict[str, Any]) -> str | None:
    """Return why a line of a manifest cannot be used, or None: its name may not leave the folder or be hidden."""
    parts = name.split("/")
    if not all(parts) or any(part.startswith(".") for part in parts):
        return "its name is not that of a visible file inside the experiment"
    if "\\" in name or not name.isprintable() or name == MANIFEST:
        return "no experiment has a file of this name"
    digest, size = entry["sha256"], entry["bytes"]
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        return "its sha256 is damaged, expected 64 hex digits"
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return f"its size is {str(size)[:40]!r}, expected a number of bytes"
    limit = MAX_WEIGHTS_BYTES if is_weights(name) else _MAX_BYTES.get(Path(name).suffix, MAX_FILE_BYTES)
    return f"it has {size:,} bytes, at most {limit:,} are read of such a file" if size > limit else None


def check_record(directory: Path, names: Iterable[str]) -> None:
    """Raise ArchiveError for a file of the experiment `directory` that no run, report or snapshot would have written.

    `names` are its files, all of them plain ones inside of it and of the size and hash in its manifest.
    """
    files = set(names)
    for name in _REQUIRED:
        if name not in files:
            raise ArchiveError(f"{directory / name}: missing; every experiment has one")
    for path in sorted(directory / name for name in files):
        if path.suffix == ".json":
            _check_values(path, read_json(path))
        elif path.suffix == ".yaml":
            _check_yaml(path)
        elif path.name == "metrics.csv":
            read_run(path.parent)
        elif path.name == "source.tar.gz":
            read_source(path)
    flat(directory / "summary.json", read_summary(directory), COLUMNS["experiments"])
    if is_sweep(directory):
        check_plan(directory / PLAN)
    else:
        RunDir(directory).read_status()


def _check_values(path: Path, value: Any) -> None:
    """Raise ArchiveError for dates, NaN, lone surrogates, huge numbers, and anything else JSON lacks."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
        json.loads(text, parse_int=_bounded)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{path}: holds a value that no record has ({error})") from None


def _bounded(digits: str) -> int:
    value = int(digits)
    if abs(value) >= _LARGEST:
        raise ValueError(f"a number of {len(digits)} digits")
    return value


def _check_yaml(path: Path) -> None:
    depth = 0
    try:
        for event in yaml.parse(path.read_bytes(), Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it repeats a value by an alias")
            if isinstance(event, yaml.ScalarEvent) and re.fullmatch(rf"[-+\d_:]{{{_MAX_DIGITS},}}", event.value):
                raise ValueError(f"a number of {len(event.value)} digits")
    except (yaml.YAMLError, ValueError) as error:
        raise ArchiveError(f"{path}: damaged, it is not YAML ({' '.join(str(error).split())})") from None
    record = RunDir(path.parent)
    if path == record.config:
        _check_values(path, record.read_config())
        read_config(path.parent)
        if b"${" in path.read_bytes():
            raise ArchiveError(f"{path}: holds ${{...}}; the config of an archived run holds resolved values only")
    elif path == record.overrides:
        for override in record.read_overrides():
            if not isinstance(override, str) or not _OVERRIDE.fullmatch(override):
                raise ArchiveError(f"{path}: {str(override)[:80]!r} is not an override (KEY=VALUE)")
    else:
        raise ArchiveError(f"{path}: no experiment has a file of this name")


def check_plan(path: Path) -> None:
    """Raise ArchiveError for a sweep.json that no sweep wrote, or with the folder of a job outside of runs/."""
    plan = read_json(path)
    _check_values(path, plan)
    sweep = read_sweep(path.parent)
    _check_kinds(path, plan, _PLAN_KINDS)
    for job in plan["jobs"]:
        _check_kinds(path, job, _JOB_KINDS)
        folder, _, name = job["folder"].partition("/")
        if folder != RUNS or "/" in name or "\\" in name or name.startswith(".") or not name.isprintable() or not name:
            raise ArchiveError(f"{path}: the folder {job['folder']!r} of a job is not one below {RUNS}/")
    for values in (sweep.baseline, *(job.values for job in sweep.jobs)):
        if any(isinstance(value, dict) for value in values.values()):
            raise ArchiveError(f"{path}: damaged, a setting is a group: {str(values)[:80]}")


def _check_kinds(path: Path, content: dict[str, Any], kinds: dict[str, Any]) -> None:
    for key, kind in kinds.items():
        value = content.get(key)
        if key in content and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ArchiveError(f"{path}: damaged, {key} is {str(value)[:40]!r}")
