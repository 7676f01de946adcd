"""From `name: data=text data.path=FILE` and the config a model was trained with to what it is evaluated on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from gpt2lab.compose.configs import compose
from gpt2lab.compose.wording import hydra_errors
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, DataSource, EvaluationTask, RunConfig, TokenizerName
from gpt2lab.schema.groups import MAX_DIMENSION

_NAMED = re.compile(r"([^=]+?):(?=\s|$)(.*)", re.S)
_WORD = re.compile(r"""(?:[^\s'"]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")+""")
_KEYS = ("data", "masking", "task_position", "train.seq_len")  # and data.*
_OWN_SYMBOLS = (DataSource.modular, DataSource.formal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Data to evaluate on, as a person typed it."""

    name: str
    overrides: tuple[str, ...]
    keys: frozenset[str]  # that the overrides set


def parse_wanted(texts: Sequence[str]) -> list[Wanted]:
    """Return `[name: ]overrides` of each text. Raises ConfigError for what is no override, or a name used twice."""
    found: dict[str, Wanted] = {}
    for text in texts:
        wanted = _parse(text)
        if wanted.name in found:
            raise ConfigError(f"--on {text!r}: {wanted.name} is there already; give each a name: --on 'NAME: {text}'")
        found[wanted.name] = wanted
    return list(found.values())


def compose_task(wanted: Wanted, trained: RunConfig | None, vocab_size: int) -> EvaluationTask:
    """Return the task that `wanted` is for a model.

    trained: the config of its run, to which the overrides are applied; None for a bare checkpoint, which starts from
    the default run and tells its tokenizer by `vocab_size`. Another source than that of the run starts from its own
    settings, but for the tokenizer: a model keeps its own unless data.tokenizer is named. Raises ConfigError.
    """
    overrides = list(wanted.overrides)
    if "data" not in wanted.keys and trained is not None:
        overrides.insert(0, f"data={trained.data.source.name}")
    # The longest there can be: what this model takes is checked where its checkpoint is read.
    composed = compose([*overrides, f"model.max_seq_len={MAX_DIMENSION}"])
    if trained is None:
        known = TokenizerName.gpt2 if vocab_size == 50257 else TokenizerName.bytes
        data, position, seq_len = _with_tokenizer(composed.data, known, wanted), composed.task_position, None
    else:
        position, seq_len = trained.task_position, trained.train.seq_len
        if composed.data.source is not trained.data.source:
            data = _with_tokenizer(composed.data, trained.data.tokenizer, wanted)
            seq_len = None if data.source in _OWN_SYMBOLS else seq_len
        else:
            names = [key.removeprefix("data.") for key in sorted(wanted.keys) if key.startswith("data.")]
            data = replace(trained.data, **{name: getattr(composed.data, name) for name in names})
    if wanted.keys & {"masking", "task_position"}:
        position = composed.task_position
    if "train.seq_len" in wanted.keys:
        seq_len = composed.train.seq_len
    return EvaluationTask(name=wanted.name, data=data, task_position=position, seq_len=seq_len)


def _with_tokenizer(data: DataConfig, tokenizer: TokenizerName, wanted: Wanted) -> DataConfig:
    kept = data.source in _OWN_SYMBOLS or "data.tokenizer" in wanted.keys
    return data if kept else replace(data, tokenizer=tokenizer)


def _parse(text: str) -> Wanted:
    named = _NAMED.fullmatch(text.strip())
    name, rest = (named[1].strip(), named[2]) if named else (None, text)
    overrides = _WORD.findall(rest)
    if not overrides or _WORD.sub("", rest).strip():
        raise ConfigError(
            f"--on {text!r}: expected overrides such as data=pydocs or 'NAME: data=text data.path=FILE', "
            "with every quote closed"
        )
    keys = frozenset(override.partition("=")[0].lstrip("+~") for override in overrides)
    for key in sorted(keys):
        if key not in _KEYS and not key.startswith("data."):
            hint = "; the engine is chosen with --engine, --device and --precision" if key.startswith("engine") else ""
            raise ConfigError(
                f"--on {text!r}: {key} changes no evaluation; expected data, data.*, {', '.join(_KEYS[1:])}{hint}"
            )
    with hydra_errors():
        parsed = OverridesParser.create().parse_overrides(overrides)
    if any(override.is_sweep_override() for override in parsed):
        raise ConfigError(f"--on {text!r}: is a grid; give --on once for each data source")
    return Wanted(name=name or _default_name(overrides), overrides=tuple(overrides), keys=keys)


def _default_name(overrides: list[str]) -> str:
    """Return the name of the file where a path is given, else `source key=value ...`."""
    values = {key: value.strip("'\"") for key, _, value in (override.partition("=") for override in overrides)}
    path = values.get("data.path")
    if path:
        return Path(path).name or path
    return " ".join(value if key == "data" else f"{key.split('.')[-1]}={value}" for key, value in values.items())
