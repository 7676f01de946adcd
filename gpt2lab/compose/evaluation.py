"""From `name: data=text data.path=FILE` to a config that says what a model is evaluated on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from gpt2lab.compose.configs import compose
from gpt2lab.compose.wording import hydra_errors
from gpt2lab.errors import ConfigError
from gpt2lab.schema import RunConfig
from gpt2lab.schema.groups import MAX_DIMENSION

_NAMED = re.compile(r"([^=]+?):(?=\s|$)(.*)", re.S)
_WORD = re.compile(r"""(?:[^\s'"]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")+""")
_KEYS = ("data", "masking", "task_position", "train.seq_len")  # and data.*


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """Data to evaluate on, as a person typed it."""

    name: str
    overrides: tuple[str, ...]
    keys: frozenset[str]  # that the overrides set


def parse_requested(texts: Sequence[str]) -> list[Requested]:
    """Return `[name: ]overrides` of each text. Raises ConfigError for a text without overrides and a repeated name."""
    by_name: dict[str, Requested] = {}
    for text in texts:
        requested = _parse(text)
        if requested.name in by_name:
            raise ConfigError(
                f"--on {text!r}: {requested.name} is there already; give each a name: --on 'NAME: {text}'"
            )
        by_name[requested.name] = requested
    return list(by_name.values())


def compose_requested(requested: Requested, trained: RunConfig | None) -> RunConfig:
    """Return the default run with the overrides of `requested`.

    Without `data=`, the data source is that of `trained`, the config of the model's run. Raises ConfigError.
    """
    overrides = list(requested.overrides)
    if "data" not in requested.keys and trained is not None:
        overrides.insert(0, f"data.source={trained.data.source}")
    # The longest there can be: what this model takes is checked where its checkpoint is read.
    return compose([*overrides, f"model.max_seq_len={MAX_DIMENSION}"])


def _parse(text: str) -> Requested:
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
    return Requested(name=name or _default_name(overrides), overrides=tuple(overrides), keys=keys)


def _default_name(overrides: list[str]) -> str:
    """Return the name of the file where a path is given, else `source key=value ...`."""
    values = {key: value.strip("'\"") for key, _, value in (override.partition("=") for override in overrides)}
    path = values.get("data.path")
    if path:
        return Path(path).name or path
    return " ".join(value if key == "data" else f"{key.split('.')[-1]}={value}" for key, value in values.items())
