"""Resuming: the original command line of a run or a sweep, with the overrides that are given now."""

from pathlib import Path

import yaml

from gpt2lab.errors import ConfigError
from gpt2lab.record.sweep import is_sweep, read_sweep

_OF_ONE_START = ("hydra.", "hydra/", "sweep.", "tracker", "archive.")  # may change when a sweep is continued


def with_resumed(arguments: list[str]) -> list[str]:
    """Put the overrides of a resumed run before those given now, and its directory in place of a new one."""
    named = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("resume=") and a != "resume=null"]
    if not named:
        return arguments
    directory = Path(named[-1].strip("'\""))
    if {"-m", "--multirun"} & set(arguments) and not is_sweep(directory):
        raise ConfigError(f"resume={named[-1]} with --multirun: it is not a sweep; resume one run at a time")
    overrides = directory / "overrides.yaml"
    escaped = str(directory).replace("\\", "\\\\").replace("'", "\\'")
    if not directory.is_dir():
        raise ConfigError(f"resume={directory}: no such directory; name a run directory below runs/")
    if (directory / "manifest.json").is_file():
        raise ConfigError(
            f"resume={directory}: an experiment has no optimizer state; resume the run directory that it was made from"
        )
    if is_sweep(directory):
        if any(argument.startswith("-") and argument not in ("-m", "--multirun") for argument in arguments):
            return arguments  # asks for information, and runs nothing
        return _resumed_sweep(directory, [a for a in arguments if not a.startswith("-")], escaped)
    if not overrides.is_file():
        raise ConfigError(f"resume={directory}: holds no run (no overrides.yaml); name a run directory below runs/")
    try:
        earlier = yaml.safe_load(overrides.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        earlier = None
    if not isinstance(earlier, list) or not all(isinstance(item, str) for item in earlier):
        raise ConfigError(f"resume={directory}: overrides.yaml is damaged; expected a list of overrides")
    overrides_now = [argument for argument in arguments if not argument.startswith("-")]
    flags = [argument for argument in arguments if argument.startswith("-")]
    # hydra.mode: the run may have been a job of an experiment that is a sweep.
    merged = last_of_each_key([*earlier, *overrides_now, f"hydra.run.dir='{escaped}'", "hydra.mode=RUN"])
    return [*merged, *flags]


def _resumed_sweep(directory: Path, arguments: list[str], escaped: str) -> list[str]:
    """Return the command line of the sweep in `directory`, with new overrides that say how its jobs are run."""
    now = [argument for argument in arguments if not argument.lstrip("+").startswith("resume=")]
    other = [item for item in now if not item.lstrip("+").startswith(_OF_ONE_START)]
    if other:
        raise ConfigError(
            f"resume={directory}: a sweep is continued with its original settings: leave {other[0]} out, or "
            f"start a new grid with it (hydra.sweep.dir={directory} keeps the jobs that both have)"
        )
    earlier = read_sweep(directory).overrides
    if any(item.startswith("hydra/launcher=") for item in now):
        earlier = tuple(
            item for item in earlier if not item.lstrip("+").startswith(("hydra.launcher.", "hydra/launcher="))
        )
    return ["-m", *last_of_each_key([*earlier, *now, f"hydra.sweep.dir='{escaped}'"])]


def last_of_each_key(overrides: list[str]) -> list[str]:
    """Return the overrides without those that a later one of the same key replaces."""
    last = {override.partition("=")[0].lstrip("+~"): override for override in overrides}
    return list(last.values())
