"""Handing the jobs of a grid to Hydra's launchers: one after the other, several processes, or a cluster."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from gpt2lab.compose.configs import CONF, default_name, to_run_config
from gpt2lab.compose.wording import hydra_errors
from gpt2lab.errors import ConfigError
from gpt2lab.schema import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One composed run: what a task receives."""

    config: RunConfig
    run_dir: Path
    overrides: list[str]


Task = Callable[[Job], int]  # returns the exit code


@dataclass(frozen=True, slots=True)
class ForHydra:
    """A task as Hydra calls it. It can be pickled, so launchers can send it to other processes."""

    task: Task

    def __call__(self, raw: DictConfig) -> int:
        hydra_config = HydraConfig.get()
        run_dir = Path(os.path.relpath(hydra_config.runtime.output_dir))
        if run_dir.parts[:1] == ("..",):
            run_dir = Path(hydra_config.runtime.output_dir)
        overrides = [item for item in hydra_config.overrides.task if not item.startswith(("resume=", "+resume="))]
        try:
            config = to_run_config(raw)
            config.name = config.name or default_name(hydra_config.runtime.choices)
            return self.task(Job(config=config, run_dir=run_dir, overrides=overrides))
        except ConfigError:
            if {path.name for path in run_dir.iterdir()} <= {".hydra"}:
                shutil.rmtree(run_dir)  # Hydra made it before the config was checked
            raise


def launch(task: Task, jobs: Sequence[tuple[Sequence[str], str]], directory: Path, of_hydra: Sequence[str]) -> None:
    """Run `task` on each job, (overrides, folder below `directory`), with the launcher that `of_hydra` chooses.

    Returns when the launcher has finished all of them. Results are not returned; each folder records that of its job.
    """
    sweep_dir = str(directory.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    common = [item for item in of_hydra if item.partition("=")[0] not in ("hydra.sweep.dir", "hydra.mode")]
    with hydra_errors():
        GlobalHydra.instance().clear()
        lab = Hydra.create_main_hydra2("gpt2lab", create_config_search_path(str(CONF)))
        config = lab.compose_config("config", [*common, f"hydra.sweep.dir='{sweep_dir}'"], run_mode=RunMode.MULTIRUN)
        context = HydraContext(config_loader=lab.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(context, ForHydra(task), config)
        batch = [[*overrides, f"hydra.sweep.subdir='{folder}'"] for overrides, folder in jobs]
    try:
        launcher.launch(batch, initial_job_idx=0)
    finally:
        GlobalHydra.instance().clear()
