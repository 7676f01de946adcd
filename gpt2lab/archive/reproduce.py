"""Running an experiment again with its own source, and comparing what it measures with what it measured.

This executes the code that the experiment holds. Everything else in the archive only reads.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.archive.agreement import Agreement, compare_rows
from gpt2lab.archive.manifest import read_manifest
from gpt2lab.errors import ArchiveError, ConfigError, Gpt2labError
from gpt2lab.record.disk import disk_errors, file_sha256
from gpt2lab.record.identity import code_hash, first_code_hash
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.source_archive import SOURCE_ARCHIVE, source_of
from gpt2lab.record.sweep import sweep_of
from gpt2lab.record.unpack import unpack_source
from gpt2lab.record.values import flatten, look_up

_NEEDED = (SOURCE_ARCHIVE, "config.yaml", "overrides.yaml", "metrics.csv", "provenance.json", "status.json")

# Where a run writes and what it writes beside its metrics; none of it changes what is computed.
_SET_HERE = ("hydra", "archive", "tracker", "resume", "sample.count", "train.time_limit", "train.stop_when")
# A second count of threads contradicts the recorded one, and a traceback is no one-line error.
_NOT_PASSED_ON = ("MKL_NUM_THREADS", "GPT2LAB_TRACEBACK")
_DIVERGED = 4  # exit code of a run whose loss is not a number any more; its rows are compared all the same
_LAST_LINES = 12


class ReproduceError(Gpt2labError):
    """A run that could not be made again, or that gave other numbers."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproductionPlan:
    """How an experiment will be run again."""

    experiment: Path  # or the directory of one run of a sweep, in its experiment
    overrides: tuple[str, ...]
    threads: int | None  # of the processor, as recorded; None where the record does not say
    last_step: int  # of the archived rows
    stop: int | None  # compare rows up to this step, and end the run there; None: the whole run
    why_stop: str  # in words; "" for the whole run


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What running an experiment again gave."""

    agreement: Agreement
    environment: dict[str, tuple[Any, Any]]  # what differs: (recorded, now)
    settings: dict[str, tuple[Any, Any]]  # keys of the config that came out otherwise: (recorded, now)
    ending: str  # the message of a run that diverged, else ""


def plan_reproduction(experiment: Path, root: Path, *, steps: int | None = None) -> ReproductionPlan:
    """Check the files that are needed against the manifest, and say how the run is made again. Executes nothing.

    `steps` ends it after that many updates, with the learning rates of the whole run. Raises ArchiveError for a file
    that is missing or not what the manifest says, and ConfigError when the run is shorter than `steps`.
    """
    _check_files(experiment)
    record = RunDir(experiment)
    config, provenance, status = record.read_config(), record.read_provenance(), record.read_status()
    rows = read_metrics(record.metrics)
    if not rows:
        raise ArchiveError(f"{record.metrics}: holds no row; there is nothing to compare with")
    last_step = max(int(row["step"] or 0) for row in rows)
    if steps is not None and steps > last_step:
        raise ConfigError(f"--steps {steps}: the archived run has {last_step} steps; leave --steps out for all of them")
    stop, why_stop = (steps, "as asked for") if steps is not None and steps < last_step else (None, "")
    timed_out = str(status.get("reason")).startswith("time limit")
    if stop is None and (status["state"] == "interrupted" or timed_out):
        # It ended where the clock or a person ended it; the row that a time limit adds may lie between two others.
        every = look_up(config, "train.log_every")
        stop = last_step - last_step % every if isinstance(every, int) and every > 0 else last_step
        why_stop = f"the archived run ended there: {status.get('reason')}"
    threads = look_up(provenance, "engine.threads")
    return ReproductionPlan(
        experiment=experiment,
        overrides=tuple(_overrides(record, root, config, provenance, stop)),
        threads=threads if isinstance(threads, int) and threads > 0 else None,
        last_step=last_step,
        stop=stop,
        why_stop=why_stop,
    )


def reproduce(plan: ReproductionPlan, *, keep: Path | None = None) -> Reproduction:
    """Execute the archived source as `plan` says, and compare its metrics with the archived ones.

    The run is written into `keep`, which must not exist or be empty, or else into a temporary directory that is
    removed, as the unpacked source always is. Relative data paths start at the current directory, as in the run.
    Raises ArchiveError for a source archive that is refused, and ReproduceError, with the run's own message and
    exit code, when the run cannot be made.
    """
    if keep is not None and keep.exists():
        with disk_errors("read", keep):
            taken = not keep.is_dir() or any(keep.iterdir())
        if taken:
            raise ConfigError(f"--keep {keep}: exists already; name a directory that does not, or an empty one")
    record = RunDir(plan.experiment)
    with disk_errors("write", Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="gpt2lab-") as folder:
        source = Path(folder) / "source"
        run = RunDir(keep or Path(folder) / "run")
        archived_source = source_of(plan.experiment)
        found = unpack_source(archived_source, source)
        if not (source / "gpt2lab" / "run.py").is_file():
            raise ArchiveError(f"{archived_source}: holds no gpt2lab/run.py, so there is nothing to run")
        archived, recorded = code_hash(source), first_code_hash(plan.experiment, record.read_provenance())
        if archived != recorded:
            raise ArchiveError(
                f"{archived_source}: its code hash is {archived[:12]}, but provenance.json says "
                f"{str(recorded)[:12]}: it is not the source that ran"
            )
        ending = _execute(plan, source, run.path, Path(folder) / "output.txt")
        ran = run.read_provenance().get("source_hash")
        if ran != found:
            raise ArchiveError(f"{plan.experiment}: the source that ran was not the archived one; nothing was compared")
        return _compare(plan, record, run, ending)


def _check_files(experiment: Path) -> None:
    whole = sweep_of(experiment) or experiment
    entries = read_manifest(whole)
    for name in _NEEDED:
        path = source_of(experiment) if name == SOURCE_ARCHIVE else experiment / name
        entry = entries.get(path.relative_to(whole).as_posix())
        if not path.is_file() or entry is None:
            lacks = "the manifest does not list it" if path.is_file() else "missing"
            raise ArchiveError(f"{path}: {lacks}; without it the run cannot be made again")
        with disk_errors("read", path):
            size = path.stat().st_size
            found = file_sha256(path) if size == entry["bytes"] else f"of {size:,} bytes"  # no need to hash
        if found != entry["sha256"]:
            raise ArchiveError(
                f"{path}: changed since it was archived (SHA-256 {found[:20]}, manifest {entry['sha256'][:12]}): "
                "nothing was executed; restore the file, from git for example"
            )


def _overrides(
    record: RunDir, root: Path, config: dict[str, Any], provenance: dict[str, Any], stop: int | None
) -> Iterator[str]:
    """Yield the archived overrides, and those that place the run in their stead."""
    for override in record.read_overrides():
        key = override.partition("=")[0].lstrip("+~").partition("@")[0]
        ours = [name for name in _SET_HERE if key == name or key.startswith((f"{name}.", f"{name}/"))]
        # Ending by a metric belongs to the run; only an earlier end replaces it.
        if not ours or (key == "train.stop_when" and stop is None):
            yield override
    yield from ("hydra.mode=RUN", "archive.mode=off", f"archive.root={_quoted(root.absolute())}", "tracker=none")
    yield "sample.count=0"
    if look_up(config, "train.time_limit") is not None:
        yield "train.time_limit=null"
    if stop is not None:
        yield f'train.stop_when="step>={stop}"'
    device = look_up(provenance, "engine.device")
    if look_up(config, "engine.device") == "auto" and device in ("cpu", "cuda", "mps"):
        yield f"engine.device={device}"


def _execute(plan: ReproductionPlan, source: Path, run_dir: Path, output: Path) -> str:
    """Run the archived entry point to its end; return the message of a run that diverged, else ""."""
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), environment.get("PYTHONPATH"))))
    environment["PYTHONSAFEPATH"] = "1"  # else a checkout in the current directory is imported instead
    if plan.threads is not None:
        environment["OMP_NUM_THREADS"] = str(plan.threads)
    directory = f"hydra.run.dir={_quoted(run_dir.absolute())}"
    command = [sys.executable, "-m", "gpt2lab.run", *plan.overrides, directory]
    with output.open("wb") as file, _child(command, environment, file) as child:
        code = child.wait()
    if code == 0:
        return ""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    own = next((line.partition(": ")[2] for line in reversed(lines) if line.startswith("gpt2lab: ")), None)
    if code == _DIVERGED and (run_dir / "metrics.csv").is_file():
        return own or "the run diverged"
    what = f"signal {-code}" if code < 0 else f"exit code {code}"
    message = own or " | ".join(lines[-_LAST_LINES:]) or "it printed nothing"
    hint = "; relative paths and downloaded data start at the current directory" if code == 3 else ""
    raise ReproduceError(
        f"{plan.experiment}: the run could not be made again ({what}): {message}{hint}",
        code if code in (2, 3, 5, 130) else 2,
    )


@contextmanager
def _child(command: list[str], environment: dict[str, str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a session of its own, and kill it with all it started when the block is left early."""
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, 9)
            child.wait()


def _compare(plan: ReproductionPlan, record: RunDir, run: RunDir, ending: str) -> Reproduction:
    archived, now = read_metrics(record.metrics), read_metrics(run.metrics)
    stopped = None
    if plan.stop is not None:
        stopped = max((int(row["step"] or 0) for row in now), default=None)
        archived, now = ([row for row in rows if int(row["step"] or 0) <= plan.stop] for rows in (archived, now))
    return Reproduction(
        agreement=compare_rows(archived, now, stopped=stopped),
        environment=_differing(_environment(record.read_provenance()), _environment(run.read_provenance())),
        settings=_differing(_settings(record.read_config()), _settings(run.read_config())),
        ending=ending,
    )


def _environment(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what may change the numbers: machine, versions, device and data."""
    flat = flatten(provenance)
    found = {name: flat.get(f"platform.{name}") for name in ("python", "machine", "cpu")}
    for name in ("name", "device", "device_name", "precision", "threads"):
        found[f"engine {name}"] = flat.get(f"engine.{name}")
    found |= {f"data {key.removeprefix('data.files.')}": flat[key] for key in flat if key.startswith("data.files.")}
    found["model init_from_sha256"] = flat.get("model.init_from_sha256")
    versions = {key.removeprefix("versions."): flat[key] for key in flat if key.startswith("versions.")}
    return found | {name: version for name, version in versions.items() if name != "gpt2lab"}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return {dotted key: value} of what a reproduction does not set itself; places of files do not count."""
    ours = (*_SET_HERE, "name", "hypothesis", "tags", "engine.device", "model.init_from")
    groups = tuple(f"{name}." for name in ours)
    return {key: value for key, value in flatten(config).items() if key not in ours and not key.startswith(groups)}


def _differing(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*before, *now))
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}


def _quoted(path: Path) -> str:
    """Return a path as Hydra's grammar takes any text."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
