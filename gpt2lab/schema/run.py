"""The whole configuration of a run, and the rules between its groups."""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from gpt2lab.errors import ConfigError
from gpt2lab.schema import groups


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run. Cross-field rules are checked here, naming the dotted key."""

    name: str | None = None  # name of the run and of its experiment; null: made from the choices
    hypothesis: str | None = None  # what the run is expected to show; goes into the report
    tags: list[str] = field(default_factory=list)  # free words for finding the experiment again
    seed: int = 0  # initial parameters, order of the data, samples
    sparsity: groups.SparsityName = groups.SparsityName.dense  # set by the sparsity group
    fc1_band: int = 0  # full band width of FC1 in hidden units; 0 = dense
    fc2_band: int = 0  # full band width of FC2 in hidden units; 0 = dense
    task_position: Any = None  # counted target positions: null (all), 4, [9, 16] (inclusive), auto
    resume: str | None = None  # run directory to continue
    model: groups.ModelConfig = field(default_factory=groups.ModelConfig)
    data: groups.DataConfig = field(default_factory=groups.DataConfig)
    optim: groups.OptimConfig = field(default_factory=groups.OptimConfig)
    schedule: groups.ScheduleConfig = field(default_factory=groups.ScheduleConfig)
    train: groups.TrainConfig = field(default_factory=groups.TrainConfig)
    sample: groups.SampleConfig = field(default_factory=groups.SampleConfig)
    engine: groups.EngineConfig = field(default_factory=groups.EngineConfig)
    tracker: groups.TrackerConfig = field(default_factory=groups.TrackerConfig)
    archive: groups.ArchiveConfig = field(default_factory=groups.ArchiveConfig)
    sweep: groups.SweepConfig = field(default_factory=groups.SweepConfig)

    def __post_init__(self) -> None:
        if self.name is not None and not self.name.strip():
            raise ConfigError("name= is empty: give the run a name, or leave it out")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed}: expected 0 or above, and less than 2**63")
        for name in ("fc1_band", "fc2_band"):
            if not 0 <= getattr(self, name) <= 8 * groups.MAX_DIMENSION:  # twice the hidden units of the widest model
                raise ConfigError(
                    f"{name}={getattr(self, name)}: expected 0 (dense) or a full width in hidden units above 0"
                )
        bands = [f"{name}={getattr(self, name)}" for name in ("fc1_band", "fc2_band") if getattr(self, name)]
        if self.sparsity is groups.SparsityName.dense and bands:
            raise ConfigError(
                f"{' '.join(bands)} with sparsity=dense: add sparsity=banded to use the band, "
                f"or set {' and '.join(band.split('=')[0] + '=0' for band in bands)} to stay dense"
            )
        if self.train.seq_len is not None and self.train.seq_len > self.model.max_seq_len:
            raise ConfigError(
                f"train.seq_len={self.train.seq_len} is above model.max_seq_len={self.model.max_seq_len}: "
                "shorten the sequences, or raise model.max_seq_len"
            )
        if self.task_position != "auto":
            counted_positions(self.task_position, self.train.seq_len or self.model.max_seq_len)
        batch = self.train.batch_size
        if isinstance(batch, int) and (self.train.micro_batch_size or 0) > batch:
            raise ConfigError(f"train.micro_batch_size={self.train.micro_batch_size} is above train.batch_size={batch}")


def counted_positions(
    task_position: Any, seq_len: int, answer_span: tuple[int, int] | None = None
) -> tuple[int, ...] | None:
    """Return the target positions that the loss counts, or None for all of them.

    `task_position` is null, a position, [first, last] inclusive, or auto (the data's `answer_span`).
    Raises ConfigError for another type, for a position outside 0 ... seq_len - 1, and for auto without a span.
    """
    expected = "expected null, a position such as 4, an inclusive span such as [9,16], or auto"
    if task_position is None:
        return None
    if task_position == "auto":
        if answer_span is None:
            raise ConfigError("task_position=auto: this data has no answer span; name the positions, or use null")
        first, last = answer_span
    elif type(task_position) is int:  # a truth value is none
        first = last = task_position
    elif isinstance(task_position, list | tuple) and [type(position) for position in task_position] == [int, int]:
        first, last = task_position
    else:
        raise ConfigError(f"task_position={task_position}: {expected}")
    if first > last:
        raise ConfigError(f"task_position={task_position}: it ends before it begins; {expected}")
    if not 0 <= first <= last < seq_len:
        raise ConfigError(
            f"task_position={task_position}: positions of this run go from 0 to {seq_len - 1}; {expected}"
        )
    return tuple(range(first, last + 1))


def plain(config: object) -> Any:
    """Return a dataclass as nested dicts of plain values (enums by name), ready for YAML or JSON."""
    if isinstance(config, Enum):
        return config.name
    if hasattr(config, "__dataclass_fields__"):
        return {f.name: plain(getattr(config, f.name)) for f in fields(config)}  # type: ignore[arg-type]
    if isinstance(config, list | tuple):
        return [plain(item) for item in config]
    if isinstance(config, dict):
        return {key: plain(value) for key, value in config.items()}
    return config
