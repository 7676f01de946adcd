"""The mirror of metrics.csv in Weights & Biases.

Our own files are the record. Whatever W&B does (missing, not logged in, no network, its service killed) costs one
warning and the mirror, never the run.
"""

import contextlib
import importlib
import netrc
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt2lab.record.disk import write_atomic
from gpt2lab.schema import TrackerConfig, TrackerMode, TrackerName

Warn = Callable[[str], None]

_INIT_TIMEOUT_S = 20  # W&B's own limit is 90 s, a long wait for a run that goes on without it


class Tracker:
    """Sends each row once. `state` is what to record: offline, online, or off and why."""

    def __init__(self, run: Any | None, *, state: str, warn: Warn, teardown: Callable[[], None] = lambda: None) -> None:
        self._run = run
        self._teardown = teardown
        self._warn = warn
        self.state = state

    def log(self, row: Mapping[str, float | int | None]) -> None:
        """Mirror one row of metrics.csv. Blank cells are left out.

        Called once per step, in rising order: W&B drops a second row of a step.
        """
        if self._run is None:
            return
        values = {name: value for name, value in row.items() if value is not None and name != "step"}
        try:
            self._run.log(values, step=row["step"])
        except Exception as error:
            self._stop("log", error)

    def finish(self, ok: bool) -> None:
        """Close the mirror. `ok` says whether the run finished; a second call does nothing."""
        run = self._run
        if run is None:
            return
        try:
            run.finish(exit_code=0 if ok else 1)
        except Exception as error:
            self._stop("finish", error)
        self._run = None

    def _stop(self, doing: str, error: Exception) -> None:
        self.state = f"off: {doing} failed ({_one_line(error)})"
        self._warn(f"W&B {doing} failed ({_one_line(error)}); the run goes on and metrics.csv has every row")
        run: Any = self._run
        self._run = None
        try:
            run.finish(exit_code=1)
        except Exception:
            # The service is gone: forget it, or W&B fails again at exit and in the next run of this process.
            with contextlib.suppress(Exception):
                self._teardown()


def start_tracker(
    config: TrackerConfig,
    *,
    run_dir: Path,
    name: str,
    run_config: dict[str, Any],
    tags: list[str],
    resume: bool,
    warn: Warn,
) -> Tracker:
    """Start the mirror that `config` asks for; `warn` takes one line for whatever keeps it from starting.

    W&B writes below `run_dir`/wandb. A resumed run keeps the id of its first part, so that the parts belong
    together. Online without a key does not ask for one: the run is mirrored offline.
    """
    if config.name is TrackerName.none:
        return Tracker(None, state="off: tracker=none", warn=warn)
    try:
        wandb = importlib.import_module("wandb")
    except Exception as error:  # installed wrongly is as good as missing
        warn(f"W&B cannot be imported ({_one_line(error)}): pip install wandb, or tracker=none; the run goes on")
        return Tracker(None, state="off: wandb cannot be imported", warn=warn)
    mode = config.mode
    if mode is TrackerMode.online and not _has_key():
        warn("tracker.mode=online but no W&B key was found: run `wandb login`; this run is mirrored offline")
        mode = TrackerMode.offline
    try:
        # Before init, which logs in and says so.
        wandb.setup(settings=wandb.Settings(silent=True, quiet=True))
        run = wandb.init(
            project=config.project,
            group=config.group,
            name=name,
            tags=tags,
            config=run_config,
            mode=mode.name,
            dir=str(run_dir),
            id=_run_id(run_dir, resume),
            resume="allow" if resume else None,
            # A handle of our own: wandb.run, which scripts around us may use, is left alone.
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                init_timeout=_INIT_TIMEOUT_S,
                quiet=True,
                save_code=False,
                silent=True,
                x_disable_stats=True,
            ),
        )
    except Exception as error:
        warn(f"W&B init failed ({_one_line(error)}); the run goes on and metrics.csv has every row")
        return Tracker(None, state=f"off: init failed ({_one_line(error)})", warn=warn)
    return Tracker(run, state=mode.name, warn=warn, teardown=wandb.teardown)


def _run_id(run_dir: Path, resume: bool) -> str:
    path = run_dir / "wandb" / "run_id"
    if resume and path.is_file():
        return path.read_text().strip()
    path.parent.mkdir(exist_ok=True)
    run_id = uuid.uuid4().hex[:12]
    write_atomic(path, f"{run_id}\n".encode())
    return run_id


def _has_key() -> bool:
    """Return whether W&B could log in by itself: it asks on the terminal otherwise, and waits there."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    named = os.environ.get("NETRC")
    places = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in places:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
