"""The model that an argument of a command names: an experiment, a run directory, a checkpoint file or hf:NAME."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab.archive import resolve_run, weights_of
from gpt2lab.record.rundir import RunDir
from gpt2lab.schema import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """Weights, and the run that they come from."""

    name: str
    checkpoint: str  # a file, or hf:NAME
    config: RunConfig | None = None  # of its run; None for a bare checkpoint
    provenance: dict[str, Any] = field(default_factory=dict)


def find_model(ref: str, root: Path) -> FoundModel:
    """Return the model that `ref` names. Raises ArchiveError when there is none, or when its weights are missing."""
    from gpt2lab.compose import to_run_config  # Hydra is needed by few commands
    from gpt2lab.engine import is_published

    if is_published(ref) or Path(ref).is_file():
        return FoundModel(name=ref, checkpoint=ref)
    # A folder that happens to have an experiment's name is not a run.
    directory = Path(ref) if (Path(ref) / "config.yaml").is_file() else resolve_run(root, ref)
    run, checkpoint = RunDir(directory), weights_of(directory)
    is_inside = directory.resolve().is_relative_to(root.resolve())
    return FoundModel(
        name=directory.resolve().relative_to(root.resolve()).as_posix() if is_inside else directory.as_posix(),
        checkpoint=str(checkpoint),
        config=to_run_config(run.read_config()),
        provenance=run.read_provenance(),
    )
