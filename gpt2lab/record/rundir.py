"""A run on disk: one directory that holds everything the run leaves behind.

`status.json` makes a directory a run and belongs to one process at a time: `claim` and `reopen` hold a lock for
as long as the `RunDir` is open, and the system drops it when the process dies, however it dies.
"""

import hashlib
import itertools
import os
import socket
import time
import traceback
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from gpt2lab.errors import ArchiveError, Gpt2labError, InternalError, internal_message, no_memory
from gpt2lab.record.disk import disk_errors, json_bytes, read_bytes, read_json, write_atomic
from gpt2lab.record.lock import acquire

DAY_S = 86_400.0
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where PyYAML was built with libyaml
_SILENT_S = 3_600.0  # a run that wrote no row for so long is not at work any more
_Container = TypeVar("_Container", dict[str, Any], list[str])
STATES = ("running", "finished", "interrupted", "failed")


def now_utc() -> str:
    """Return the time as ISO 8601 in UTC with milliseconds; later times sort later as text."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def create_unique(parent: Path, name: str) -> Path:
    """Make and return `parent`/`name`, or NAME-2, NAME-3, ... where that exists.

    Two processes at once get two directories. Raises ArchiveError when `parent` cannot be written.
    """
    assert name and Path(name).name == name, f"{name!r} is not the name of one directory"
    with disk_errors("create run directory", parent / name):
        parent.mkdir(parents=True, exist_ok=True)
        for count in itertools.count(1):
            path = parent / (name if count == 1 else f"{name}-{count}")
            with suppress(FileExistsError):
                path.mkdir()
                break
    return path


class RunDir(AbstractContextManager["RunDir"]):
    """The files of one run. Build it with `claim` (new run), `reopen` (resume) or directly, to read only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.overrides = path / "overrides.yaml"
        self.provenance = path / "provenance.json"
        self.status = path / "status.json"
        self.metrics = path / "metrics.csv"
        self.model = path / "model.bin"
        self.state = path / "state.safetensors"
        self.samples = path / "samples"
        self.traceback = path / "traceback.txt"
        self.source_archive = path / "source.tar.gz"
        self._lock: int | None = None

    @classmethod
    def claim(cls, path: Path) -> "RunDir":
        """Make `path` the directory of a new run, state running, and lock it.

        Raises ArchiveError when it already holds a run, another process is in it, or it cannot be written.
        """
        run = cls(path)
        with disk_errors("create run directory", path):
            path.mkdir(parents=True, exist_ok=True)
        run._lock = acquire(path)
        try:
            taken = [file.name for file in (run.status, run.metrics, run.model) if file.exists()]
            if taken:
                raise ArchiveError(
                    f"{path} already holds a run ({taken[0]}): name another directory with hydra.run.dir=, "
                    f"or continue that run with resume={path}"
                )
            run.write_status("running")
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def reopen(cls, path: Path) -> "RunDir":
        """Lock the directory of an earlier run, to continue it; its status stays until it is written.

        Raises ArchiveError when it holds no run, or a process is still in it.
        """
        run = cls(path)
        if not run.status.is_file():
            raise ArchiveError(f"{path} is not a run directory: it has no status.json")
        run._lock = acquire(path)
        return run

    def close(self) -> None:
        """Let other processes have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_status(self, state: str, *, reason: str | None = None, **details: Any) -> None:
        """Replace status.json: `state`, `reason`, times, pid, host, and `details` over those written before.

        `started` is the first start of the run; `ended` is null while it runs. `details` are finite JSON values.
        """
        assert state in STATES, f"{state} is not one of {STATES}"
        assert self._lock is not None, "only the process that holds the run may write its status"
        now = now_utc()
        before = self.read_status() if self.status.exists() else {}
        status = {
            **before,
            "state": state,
            "reason": reason,
            "started": before.get("started") or now,
            "ended": None if state == "running" else now,
            "pid": os.getpid(),
            "host": host_digest(),
            **details,
        }
        write_atomic(self.status, json_bytes(status))
        if state != "failed":
            self.traceback.unlink(missing_ok=True)  # of an earlier end

    def fail(self, error: BaseException) -> NoReturn:
        """Write that the run failed and why, and raise the error.

        Of what is not a user's error the traceback is kept in traceback.txt, and the InternalError raised names it.
        """
        error = no_memory(error) if isinstance(error, MemoryError) else error
        if isinstance(error, Gpt2labError):
            self.write_status("failed", reason=str(error), exit_code=error.exit_code)
            raise error
        write_atomic(self.traceback, "".join(traceback.format_exception(error)).encode())
        self.write_status("failed", reason=internal_message(error), exit_code=InternalError.exit_code)
        raise InternalError(internal_message(error), traceback_file=self.traceback) from error

    def read_status(self) -> dict[str, Any]:
        """Return status.json. Raises ArchiveError when it is missing or damaged."""
        status = read_json(self.status)
        if status.get("state") not in STATES:
            raise ArchiveError(f"{self.status}: state is {status.get('state')!r}, expected one of {', '.join(STATES)}")
        return status

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved config, keys in the order given."""
        write_atomic(self.config, _yaml(config))

    def read_config(self) -> dict[str, Any]:
        """Return config.yaml. Raises ArchiveError when it is missing or damaged."""
        return _read_yaml(self.config, dict)

    def write_overrides(self, overrides: list[str]) -> None:
        """Write the overrides of the command line, in their order."""
        write_atomic(self.overrides, _yaml(overrides))

    def read_overrides(self) -> list[str]:
        """Return overrides.yaml. Raises ArchiveError when it is missing or damaged."""
        return _read_yaml(self.overrides, list)

    def write_provenance(self, provenance: dict[str, Any]) -> None:
        """Write provenance.json, keys in the order given; values are finite JSON values."""
        write_atomic(self.provenance, json_bytes(provenance))

    def read_provenance(self) -> dict[str, Any]:
        """Return provenance.json. Raises ArchiveError when it is missing or damaged."""
        return read_json(self.provenance)


def runs_elsewhere(run_dir: Path, *, silent_s: float = _SILENT_S) -> bool:
    """Whether a run may be at work on another machine, whose lock is not seen here: its status says running there, and
    status.json or metrics.csv is younger than `silent_s` seconds. Raises ArchiveError for a damaged status.json.
    """
    run = RunDir(run_dir)
    status = run.read_status() if run.status.is_file() else {}
    if status.get("state") != "running" or status.get("host", host_digest()) == host_digest():
        return False
    with disk_errors("read", run_dir):
        latest = max(file.stat().st_mtime for file in (run.status, run.metrics) if file.exists())
    return time.time() - latest < silent_s


def host_digest() -> str:
    """Return a digest of this machine's name: a record goes to strangers, whom the name itself is no business of."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


def _read_yaml(path: Path, kind: type[_Container]) -> _Container:
    content = read_bytes(path)
    try:
        value = yaml.load(content, Loader)
    except (yaml.YAMLError, ValueError) as error:  # a day 99 is a ValueError
        raise ArchiveError(f"{path}: damaged, it is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, kind):
        expected = "mapping" if kind is dict else "list"
        raise ArchiveError(f"{path}: damaged, expected a {expected}, got {type(value).__name__}")
    return value


def _yaml(value: object) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000).encode()
