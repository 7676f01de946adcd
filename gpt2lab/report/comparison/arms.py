"""Which runs may stand in one table: runs grouped into arms, and what differs between arms beside their settings.

An arm is one setting: runs whose configs are equal except for the seed. What the record of a run says about its data,
steps, evaluation, model, code and engine (its facts) must be equal too, unless the comparison is about that.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError, ConfigError
from gpt2lab.model import bands
from gpt2lab.record.identity import recorded_code_hash
from gpt2lab.record.provenance import config_hash, hashed_config
from gpt2lab.record.sweep import sweep_of
from gpt2lab.record.values import flatten
from gpt2lab.report.inputs import Inputs, read_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that must be equal for two losses to mean the same: where it is recorded, which keys set it."""

    name: str
    keys: tuple[str, ...]  # config keys, or groups of them with a dot at the end
    recorded: tuple[str, ...]  # paths of Run.fact


_CODE = "provenance.code_hash"

FACTS = (
    Fact(
        name="data",
        keys=("data.", "task_position"),
        recorded=(
            *(f"provenance.data.{part}" for part in ("name", "files", "splits", "tokenizer", "vocab_size", "detail")),
            "provenance.model.counted_positions",
        ),
    ),
    Fact(
        name="steps",
        keys=("train.max_steps", "train.stop_when", "train.batch_size"),
        recorded=("config.train.max_steps", "config.train.stop_when", "provenance.model.tokens_per_step"),
    ),
    Fact(
        name="evaluation",
        keys=("train.eval_every", "train.eval_batches", "train.seq_len", "train.batch_size"),
        recorded=("config.train.eval_every", "config.train.eval_batches", "provenance.model.seq_len"),
    ),
    Fact(
        name="model",
        keys=("model.",),
        recorded=tuple(
            f"provenance.model.{part}"
            for part in ("n_layer", "n_head", "n_embd", "max_seq_len", "padded_vocab_size", "init_from_sha256")
        ),
    ),
    Fact(name="code", keys=(), recorded=(_CODE,)),
    Fact(
        name="engine",
        keys=("engine.",),
        recorded=tuple(f"provenance.engine.{part}" for part in ("name", "device", "precision")),
    ),
)
EARLIER_NAMES = {"source": "code"}  # of facts, which --vary still takes
# A mean over other tokens is another quantity, whoever asks for the comparison.
TOKENS = Fact(
    name="tokens",
    keys=(),
    recorded=(
        *(f"provenance.data.{part}" for part in ("name", "tokenizer", "vocab_size")),
        "provenance.model.counted_positions",
    ),
)
# It moves the last digits of a loss and decides a speed, so it is noted for one and must be equal for the other.
HARDWARE = Fact(
    name="hardware",
    keys=(),
    recorded=("provenance.engine.device_name", "provenance.engine.threads", "provenance.platform.cpu"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One archived run. `config` is flat (dotted keys), without the seed and what does not change a result."""

    name: str
    inputs: Inputs
    seed: int
    config: dict[str, str]
    key: str  # equal for runs that differ in nothing but their seed
    code_hash: str | None  # see record.identity

    def fact(self, path: str) -> Any:
        """Look up a recorded value as Inputs.fact does; the code hash of an older run too."""
        return self.code_hash if path == _CODE else self.inputs.fact(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One setting and its runs, in the order they were named."""

    runs: tuple[Run, ...]

    @property
    def names(self) -> str:
        """The experiments of the arm, in words."""
        return ", ".join(run.name for run in self.runs)

    @property
    def first(self) -> Run:
        """The run that stands for what all of them share."""
        return self.runs[0]


def run_name(directory: Path) -> str:
    """Return what a run is called: NNNNN-slug, or NNNNN-slug/FOLDER for one of a sweep, whose folders recur."""
    sweep = sweep_of(directory)
    return directory.name if sweep is None else f"{sweep.name}/{directory.name}"


def read_run(directory: Path, name: str | None = None) -> Run:
    """Read the run archived in `directory`, called `name` or else as `run_name` has it.

    Raises ArchiveError naming the file that is missing or damaged.
    """
    inputs = read_inputs(directory)
    config = {key: value for key, value in inputs.config.items() if key != "seed"}
    seed = inputs.config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ArchiveError(f"{directory / 'config.yaml'}: seed is {show(seed)}, expected a whole number")
    try:
        key = config_hash(config)
        settings = flatten(hashed_config(config))
        flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    except (TypeError, ValueError, RecursionError):
        raise ArchiveError(f"{directory / 'config.yaml'}: damaged, it holds values that no config has") from None
    code = recorded_code_hash(directory, inputs.provenance, inputs.status)
    return Run(name=name or run_name(directory), inputs=inputs, seed=seed, config=flat, key=key, code_hash=code)


def show(value: Any) -> str:
    """Return a recorded value of any origin as a few printable characters; of a hash the first eight."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    text = "".join(char if char.isprintable() else "?" for char in text)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:8]
    return text if len(text) <= 40 else text[:39] + "…"


def group(runs: Iterable[Run], vary: Iterable[str] = ()) -> list[Arm]:
    """Return the runs as arms, in order; a fact named in `vary` sets arms apart as a config key does.

    Raises ArchiveError naming two runs of one arm that have the same seed, or whose facts differ.
    """
    facts = [fact for fact in FACTS if fact.name in set(vary)]
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(json.dumps([run.key, *(values(run, fact) for fact in facts)], default=str), []).append(run)
    arms = [Arm(runs=tuple(members)) for members in found.values()]
    for arm in arms:
        seeds: dict[int, Run] = {}
        for run in arm.runs:
            for fact in FACTS:
                if differences := differing(arm.first, run, fact):
                    raise ArchiveError(
                        f"{arm.first.name} and {run.name} have the same config but not the same {fact.name} "
                        f"({'; '.join(differences)}): leave one out, or compare by it with --vary {fact.name}"
                    )
            if run.seed in seeds:
                raise ArchiveError(
                    f"{seeds[run.seed].name} and {run.name} have the same config and the same seed, {run.seed}: "
                    "name one of them"
                )
            seeds[run.seed] = run
    return arms


def values(run: Run, fact: Fact) -> list[Any]:
    """Return what the record of a run says about a fact, None where it says nothing."""
    return [run.fact(path) for path in fact.recorded]


def differing(one: Run, other: Run, fact: Fact) -> list[str]:
    """Return what differs in a fact, as `n_embd: 128 against 256`; [] where it is equal."""
    pairs = zip(fact.recorded, values(one, fact), values(other, fact), strict=True)
    found = [f"{path.rpartition('.')[2]}: {_both(mine, others)}" for path, mine, others in pairs if mine != others]
    return found if len(found) <= 3 else [*found[:3], f"and {len(found) - 3} more"]


def differing_keys(one: Run, other: Run) -> list[str]:
    """Return the config keys in which two runs differ, the seed aside, in the order of the config."""
    return [key for key in dict.fromkeys([*one.config, *other.config]) if one.config.get(key) != other.config.get(key)]


def why_apart(baseline: Run, run: Run, vary: set[str], facts: Iterable[Fact] = FACTS) -> list[str]:
    """Return why `run` cannot stand beside `baseline`: each fact that differs and that `vary` does not name.

    `vary` holds facts by name, and config keys: where only such keys differ, the facts they set may.
    """
    reasons = []
    keys = differing_keys(baseline, run)
    for fact in facts:
        differences = differing(baseline, run, fact)
        cause = keys_of(fact, keys)
        if differences and fact.name not in vary and not (cause and cause <= vary):
            reasons.append(f"not the same {fact.name} ({'; '.join(differences)})")
    return reasons


def keys_of(fact: Fact, keys: Iterable[str]) -> set[str]:
    """Return those of the config keys `keys` that set a fact."""
    groups = tuple(key for key in fact.keys if key.endswith("."))
    return {key for key in keys if key in fact.keys or key.startswith(groups)}


def check_vary(vary: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """Return the names in `vary` as of today. Raises ConfigError for what is no fact and no key that differs."""
    keys = {key for run in runs[1:] for key in differing_keys(runs[0], run)}
    names = [EARLIER_NAMES.get(name, name) for name in vary]
    for name in names:
        if name not in keys and name not in {fact.name for fact in FACTS}:
            raise ConfigError(
                f"--vary {name}: no such thing differs between these experiments; expected one of "
                f"{', '.join([*(fact.name for fact in FACTS), *sorted(keys)])}"
            )
    return names


def density(run: Run) -> dict[str, float]:
    """Return the exact share of weights that the bands keep, {"fc1": ..., "fc2": ...}; {} where not recorded."""
    n_embd = run.inputs.fact("provenance.model.n_embd")
    widths = {name: run.inputs.fact(f"provenance.model.{name}_band") for name in ("fc1", "fc2")}
    if not all(isinstance(value, int) and 0 <= value <= 2**20 for value in (n_embd, *widths.values())) or not n_embd:
        return {}
    return {name: bands.density(n_embd, width) for name, width in widths.items()}


def _both(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):  # the entries that differ, not all of them
        keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
        return ", ".join(f"{show(key)} {_both(one.get(key), other.get(key))}" for key in keys[:3])
    return f"{show(one)} against {show(other)}"
