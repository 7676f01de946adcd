"""The jobs of a grid, composed and checked before the first of them starts."""

from collections.abc import Sequence

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from gpt2lab.compose.configs import CONF, compose
from gpt2lab.compose.wording import hydra_errors
from gpt2lab.errors import ConfigError
from gpt2lab.schema import plain


def check_grid(arguments: Sequence[str]) -> dict[int, int]:
    """Compose every job of a multirun; return {number of a job: number of the earlier job that is the same run}.

    Without a grid nothing is done. Raises ConfigError that names the first job which cannot be.
    """
    repeats: dict[int, int] = {}
    first_of: dict[str, int] = {}
    for number, overrides in enumerate(expand(arguments)):
        try:
            config = compose(overrides)
        except ConfigError as error:
            raise ConfigError(f"job {number} of the grid ({' '.join(overrides)}): {error}") from error
        same = first_of.setdefault(repr(plain(config)), number)
        if same != number:
            repeats[number] = same
    return repeats


def expand(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job that Hydra's own sweeper makes of a command line; [] when it is no multirun."""
    given = [argument for argument in arguments if not argument.startswith("-")]
    asked = bool({"-m", "--multirun"} & set(arguments))
    if not asked and not any(item.lstrip("+").startswith(("experiment=", "hydra.")) for item in given):
        return []  # only these can make a multirun of it; composing once more takes a twentieth of a second
    with hydra_errors():
        parser = OverridesParser.create()
        single = [
            item
            for item, parsed in zip(given, parser.parse_overrides(given), strict=True)
            if not parsed.is_sweep_override()
        ]
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            settings = hydra.compose("config", overrides=single, return_hydra_config=True).hydra
        if not asked and settings.mode != RunMode.MULTIRUN:
            return []
        if not settings.sweeper._target_.endswith(BasicSweeper.__name__):
            return []  # another sweeper makes its jobs as it goes
        params = [f"{key}={value}" for key, value in (settings.sweeper.params or {}).items()]
        [jobs] = BasicSweeper.split_arguments(parser.parse_overrides([*params, *given]), None)
    return jobs
