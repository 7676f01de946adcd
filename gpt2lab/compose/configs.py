"""Composing a RunConfig from the files of conf/ and overrides, without running anything."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from gpt2lab.compose.wording import hydra_errors
from gpt2lab.record.rundir import create_unique
from gpt2lab.schema import RunConfig

PACKAGE = Path(__file__).parent.parent
# A checkout has conf/ next to the package; a wheel contains it.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())


def compose(overrides: Sequence[str]) -> RunConfig:
    """Return the RunConfig of a list of overrides, without running anything. Raises ConfigError."""
    with hydra_errors():
        raw = compose_raw(overrides)
    config = to_run_config(raw)
    config.name = config.name or default_name(raw.hydra.runtime.choices)
    return config


def compose_raw(overrides: Sequence[str]) -> DictConfig:
    """Return what Hydra makes of a list of overrides, its own settings included."""
    _register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("config", overrides=list(overrides), return_hydra_config=True)


def to_run_config(settings: DictConfig | dict[str, Any]) -> RunConfig:
    """Return the checked dataclass of a composed config, or of a config.yaml read back. Raises ConfigError."""
    with hydra_errors():
        content: Any = settings
        if isinstance(settings, DictConfig):
            # Plain values, so that the merge refuses keys that `+key=value` added without a schema.
            content = OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])
            content = OmegaConf.to_container(content, resolve=True, enum_to_str=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), content))
    assert isinstance(config, RunConfig)
    return config


def default_name(choices: Any) -> str:
    """Return a name made from the chosen options: the experiment, or model, data and all that are not the default."""
    if choices.get("experiment"):
        return str(choices["experiment"])
    parts = [choices["model"], choices["data"]]
    parts += [choices[group] for group, usual in (("sparsity", "dense"), ("debug", None)) if choices[group] != usual]
    return "-".join(str(part) for part in parts)


def _new_run_dir(parent: str, moment: str, name: str) -> str:
    """Create a unique directory and return it. It is a resolver, so that Hydra itself writes there."""
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", str(name)).strip("-.")[:60] or "run"
    return str(create_unique(Path(parent), f"{moment}-{slug}"))


def _run_name(*, _root_: DictConfig) -> str:
    return _root_.get("name") or default_name(_root_.hydra.runtime.choices)


def _register() -> None:
    ConfigStore.instance().store("schema", node=RunConfig)
    OmegaConf.register_new_resolver("new_run_dir", _new_run_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


_register()
