"""The jobs of a grid, composed and checked before the first of them starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from gpt2lab.compose.configs import compose, compose_raw
from gpt2lab.compose.wording import hydra_errors
from gpt2lab.errors import ConfigError
from gpt2lab.schema import RunConfig

# Overrides that begin with these configure Hydra, for the whole sweep.
_OF_HYDRA = ("hydra.", "hydra/")
_KEYS_OF_NO_JOB = ("sweep.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridJob:
    """One run of a grid."""

    overrides: tuple[str, ...]  # its whole command line
    config: RunConfig
    values: dict[str, Any]  # of the keys that vary


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The command line of a sweep, expanded by Hydra."""

    overrides: tuple[str, ...]  # as given, after those of an experiment file that is a sweep
    of_hydra: tuple[str, ...]  # those of `overrides` that are about Hydra: launcher, directories
    varies: tuple[str, ...]  # override keys that differ between jobs
    jobs: tuple[GridJob, ...]
    directory: Path | None  # value of hydra.sweep.dir; None: chosen by gpt2lab
    parallel: bool  # with a launcher other than Hydra's own: each job has its own process
    elsewhere: bool  # on machines that may have devices which this one lacks


def expand(arguments: Sequence[str]) -> Grid | None:
    """Return the grid of a command line, each job composed; None when it asks for no multirun.

    Raises ConfigError that names the first job with an invalid config.
    """
    given = [argument for argument in arguments if not argument.startswith("-")]
    asked = bool({"-m", "--multirun"} & set(arguments))
    if not asked and not any(item.lstrip("+").startswith(("experiment=", "hydra.")) for item in given):
        return None  # only these can start a multirun; composing once more takes 50 ms
    with hydra_errors():
        settings = _settings(given)
        if not asked and settings.mode != RunMode.MULTIRUN:
            return None
        if not settings.sweeper._target_.endswith(BasicSweeper.__name__):
            raise ConfigError(
                f"hydra/sweeper: {settings.sweeper._target_} chooses jobs while it runs; gpt2lab runs grids, whose "
                "jobs are all checked before the first starts: leave hydra/sweeper out"
            )
        overrides = [*(f"{key}={value}" for key, value in (settings.sweeper.params or {}).items()), *given]
        parsed = OverridesParser.create().parse_overrides(overrides)
        of_hydra = [item for item in overrides if item.lstrip("+~").startswith(_OF_HYDRA)]
        [combinations] = BasicSweeper.split_arguments(
            [item for item in parsed if not str(item.input_line).lstrip("+~").startswith(_OF_HYDRA)], None
        )
        launcher = settings.launcher._target_.rpartition(".")[2]
        directory = _directory(settings)
    varies, jobs = _jobs(combinations)
    return Grid(
        overrides=tuple(overrides),
        of_hydra=tuple(of_hydra),
        varies=varies,
        jobs=tuple(jobs),
        directory=directory,
        parallel=launcher != "BasicLauncher",
        elsewhere=launcher not in ("BasicLauncher", "JoblibLauncher", "LocalLauncher"),
    )


def _settings(given: list[str]) -> DictConfig:
    """Return Hydra's own settings under a command line, the swept keys left out."""
    parsed = OverridesParser.create().parse_overrides(given)
    single = [item for item, override in zip(given, parsed, strict=True) if not override.is_sweep_override()]
    return compose_raw(single).hydra


def _directory(settings: DictConfig) -> Path | None:
    """Return the value of hydra.sweep.dir. Raises ConfigError for a directory that cannot hold a sweep."""
    node = settings.sweep._get_node("dir")  # unresolved: our own resolver would make a directory
    if str(node._value()).startswith("${new_run_dir:"):
        return None
    directory = Path(str(settings.sweep.dir))
    name = f"hydra.sweep.dir={directory}"
    if directory == Path() or "${" in str(directory):
        raise ConfigError(f"{name}: expected the directory of a sweep, such as runs/sweeps/mine")
    taken = next((file for file in ("manifest.json", "status.json") if (directory / file).exists()), None)
    if taken is not None:
        what = "an experiment of the archive, which is never changed" if taken == "manifest.json" else "a single run"
        raise ConfigError(f"{name}: holds {what}: name another directory")
    return directory


def _jobs(combinations: list[list[str]]) -> tuple[tuple[str, ...], list[GridJob]]:
    """Return the override keys that differ between jobs, and the jobs, each composed, with their values of these keys.

    ++seed=1 sets the key seed.
    """
    parser = OverridesParser.create()
    values = [
        {str(item.get_key_element()).lstrip("+~"): _value(item) for item in parser.parse_overrides(overrides)}
        for overrides in combinations
    ]
    keys = [key for key in values[0] if any(value[key] != values[0][key] for value in values)]
    varies = tuple(key for key in keys if not key.startswith(_KEYS_OF_NO_JOB))
    jobs = []
    for place, (overrides, value) in enumerate(zip(combinations, values, strict=True)):
        try:
            config = compose(overrides)
        except ConfigError as error:
            raise ConfigError(f"job {place} of the grid ({' '.join(overrides)}): {error}") from error
        varied = {key: value[key] for key in varies}
        jobs.append(GridJob(overrides=tuple(overrides), config=config, values=varied))
    return varies, jobs


def _value(override: Override) -> Any:
    """Return the value of an override as plain data."""
    value = override.value()
    return value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)
