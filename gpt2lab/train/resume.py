"""Whether a run may be continued with a config, and the state it continues from."""

from typing import Any

from gpt2lab.errors import ArchiveError, ConfigError, DataError
from gpt2lab.model.bands import banded_tensors
from gpt2lab.record.checkpoint import Checkpoint
from gpt2lab.record.identity import recorded_code_hashes
from gpt2lab.record.metrics import drop_rows_after
from gpt2lab.record.provenance import collect
from gpt2lab.record.rundir import RunDir, now_utc
from gpt2lab.record.source_archive import find_source_root
from gpt2lab.record.values import flatten
from gpt2lab.schema import RunConfig, plain
from gpt2lab.train.schedule import depends_on_max_steps
from gpt2lab.train.setup import Parts

# Keys that may differ when a run is continued: they change its files or when it ends, not what is computed.
MAY_CHANGE = (
    "name",
    "hypothesis",
    "tags",
    "resume",
    "tracker",
    "archive",
    "sweep",
    "sample",
    "train.max_steps",
    "train.stop_when",
    "train.time_limit",
    "train.checkpoint_every",
)


def check_same_config(config: RunConfig, run: RunDir) -> None:
    """Raise ConfigError when the run in `run` was made with another config, naming the keys that differ."""
    # Keys that are newer than the run had their defaults.
    before, now = flatten(plain(RunConfig())) | flatten(run.read_config()), flatten(plain(config))
    differing = [
        f"{key}={now.get(key)} (was {before.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if before.get("train.max_steps") != now["train.max_steps"] and depends_on_max_steps(config.schedule):
        differing.append(
            f"train.max_steps={now['train.max_steps']} (was {before.get('train.max_steps')}; the learning rates of "
            f"schedule={config.schedule.name.name} depend on it)"
        )
    if differing:
        raise ConfigError(
            f"resume={run.path}: that run has another config: {', '.join(differing[:4])}"
            f"{f' and {len(differing) - 4} more' if len(differing) > 4 else ''}; start a new run for a new config"
        )


def restore(parts: Parts, run: RunDir, checkpoint: Checkpoint) -> float:
    """Give the engine, which holds the checkpoint's weights, its moments and step; return the seconds trained.

    Later rows of metrics are removed; they will be measured again.

    Raises ArchiveError for a damaged or unfinished checkpoint, DataError when the data have changed.
    """
    files = run.read_provenance()["data"]["files"] if run.provenance.exists() else None
    if files is not None and files != parts.source.files:
        raise DataError(
            f"resume={run.path}: data.source={parts.source.name} has changed since the run began "
            "(its hash differs); restore the data, or start a new run"
        )
    params = parts.engine.parameters()
    expected = {f"{moment}.{name}" for moment in "mv" for name in params}
    if checkpoint.step > 0 and not expected <= checkpoint.state.keys():
        missing = sorted(expected - checkpoint.state.keys())[0]
        raise ArchiveError(f"{run.state}: no array {missing}; the file was not written by this version")
    for name, mask in banded_tensors(parts.spec.model).items():
        for moment in "mv":
            if checkpoint.step > 0 and checkpoint.state[f"{moment}.{name}"][:, ~mask].any():
                raise ArchiveError(f"{run.state}: {moment}.{name} is not zero outside the band; the file is damaged")
    if checkpoint.step > parts.config.train.max_steps:
        raise ConfigError(
            f"train.max_steps={parts.config.train.max_steps}: the run in {run.path} has done {checkpoint.step} steps "
            "already; set it above that"
        )
    parts.engine.restore(params, checkpoint.state, checkpoint.step)
    drop_rows_after(run.metrics, checkpoint.step)
    return float(checkpoint.meta.get("elapsed_s", 0.0))


def resume_record(
    run: RunDir, parts: Parts, facts: dict[str, Any], *, overrides: list[str], command: list[str]
) -> list[str]:
    """Record that the run continues, and its new length; return the differences from when it began."""
    before = run.read_provenance()
    now = collect(command=command, config=plain(parts.config), source_root=find_source_root(), **facts)
    changed = []
    for section, keys in (("engine", now["engine"]), ("versions", ("torch", "numpy", "gpt2lab"))):
        for key in keys:
            if before[section].get(key) != now[section].get(key):
                changed.append(f"{key} is {now[section].get(key)}, was {before[section].get(key)}")
    status = run.read_status()
    if recorded_code_hashes(run.path, before, status)[-1] != now["code_hash"]:
        changed.append("the code has changed since it last ran")
    entry = {
        "step": parts.engine.step,
        "at": now_utc(),
        "max_steps_before": run.read_config()["train"]["max_steps"],
        "source_hash": now["source_hash"],
        "code_hash": now["code_hash"],
        "changed": changed,
    }
    run.write_status("running", resumes=[*status.get("resumes", []), entry])
    run.write_config(plain(parts.config))
    run.write_overrides(overrides)
    return [f"resumed with a difference: {difference}" for difference in changed]
