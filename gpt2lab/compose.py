"""From YAML files and command-line overrides to a RunConfig: the only file that knows Hydra and OmegaConf."""

import difflib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpt2lab.errors import ArchiveError, ConfigError, Gpt2labError
from gpt2lab.record.rundir import create_unique
from gpt2lab.schema import RunConfig

TRACEBACK_VARIABLE = "GPT2LAB_TRACEBACK"  # set to 1, errors come with their traceback
PACKAGE = Path(__file__).parent
# In a checkout conf/ lies beside the package; a wheel carries it inside.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One composed run: what a task receives."""

    config: RunConfig
    run_dir: Path
    overrides: list[str]
    number: int | None  # place in a multirun; None for a single run


Task = Callable[[Job], int]  # returns the exit code


def main(task: Task, arguments: Sequence[str] | None = None) -> int:
    """Compose what the command line asks for, hand each job to `task`, and return the exit code.

    In a multirun the jobs run one after the other; the code is that of the first job that failed.
    Any error a user can cause is printed as one line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    codes: list[int] = []

    def run_job(raw: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        run_dir = Path(os.path.relpath(hydra_config.runtime.output_dir))
        if run_dir.parts[:1] == ("..",):
            run_dir = Path(hydra_config.runtime.output_dir)
        is_sweep = hydra_config.mode == RunMode.MULTIRUN
        with error_line(codes):
            try:
                config = to_run_config(raw)
            except ConfigError:
                _remove_unused(run_dir)
                raise
            config.name = config.name or default_name(hydra_config.runtime.choices)
            number = int(hydra_config.job.num) if is_sweep else None
            overrides = [item for item in hydra_config.overrides.task if not item.startswith(("resume=", "+resume="))]
            codes.append(task(Job(config=config, run_dir=run_dir, overrides=overrides, number=number)))
        if codes and codes[-1] == 130:
            raise KeyboardInterrupt  # the person wants the rest of a sweep to stop too

    argv = sys.argv
    try:
        with error_line(codes):
            sys.argv = [argv[0], *_with_resumed(arguments)]
            with _hydra_errors():
                hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_job)()
    finally:
        sys.argv = argv
    return next((code for code in codes if code), 0)


def compose(overrides: Sequence[str]) -> RunConfig:
    """Return the RunConfig of a list of overrides, without running anything. Raises ConfigError."""
    _register()
    GlobalHydra.instance().clear()
    with _hydra_errors(), hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        raw = hydra.compose("config", overrides=list(overrides), return_hydra_config=True)
        choices = OmegaConf.to_container(raw.hydra.runtime.choices)
        config = to_run_config(raw)
    assert isinstance(choices, dict)
    config.name = config.name or default_name(choices)
    return config


def to_run_config(settings: DictConfig | dict[str, Any]) -> RunConfig:
    """Return the checked dataclass of a composed config, or of a config.yaml read back. Raises ConfigError."""
    with _hydra_errors():
        content: Any = settings
        if isinstance(settings, DictConfig):
            # As plain values, so that what `+key=value` added without a schema is refused by the merge.
            content = OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])
            content = OmegaConf.to_container(content, resolve=True, enum_to_str=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), content))
    assert isinstance(config, RunConfig)
    return config


def default_name(choices: Any) -> str:
    """Return a name made from the chosen options: the experiment's, or model, data and what else is unusual."""
    if choices.get("experiment"):
        return str(choices["experiment"])
    parts = [choices["model"], choices["data"]]
    parts += [choices[group] for group, usual in (("sparsity", "dense"), ("debug", None)) if choices[group] != usual]
    return "-".join(str(part) for part in parts)


@contextmanager
def error_line(codes: list[int]) -> Iterator[None]:
    """Turn a user's error into one line on stderr and its exit code; anything else stays a traceback."""
    try:
        yield
    except Gpt2labError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"gpt2lab: {' '.join(str(error).split())}", file=sys.stderr)
        codes.append(error.exit_code)
    except OSError as error:
        if os.environ.get(TRACEBACK_VARIABLE) or error.filename is None:
            raise
        print(f"gpt2lab: {error.filename}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        codes.append(ArchiveError.exit_code)
    except KeyboardInterrupt:
        if not codes or codes[-1] != 130:
            print("gpt2lab: interrupted", file=sys.stderr)
            codes.append(130)


@contextmanager
def _hydra_errors() -> Iterator[None]:
    """Translate what Hydra and OmegaConf say about a config into one ConfigError."""
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a trimmed traceback and exits with 1 by itself
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__
        if isinstance(cause, Gpt2labError):  # raised by a resolver of ours
            raise cause from None
        raise ConfigError(_explain(error)) from error
    finally:
        if full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _explain(error: Exception) -> str:
    """Return Hydra's message as one line, with the nearest valid names for a mistyped one."""
    text, cause = str(error), str(error.__cause__ or "")
    key = _named_key(text, error.__cause__ or error)
    if re.search(r"not in struct|Key '[^']*' (is )?not in", f"{text} {cause}"):
        close = difflib.get_close_matches(key, known_keys(), n=3, cutoff=0.6)
        close = close or [name for name in known_keys() if name.split(".")[-1] == key.split(".")[-1]]
        return f"unknown key {key}: {f'did you mean {_either(close)}?' if close else 'see --cfg job for every key'}"
    missing = re.search(r"Could not find '([^']+)'.*?Available options in '[^']+':(.*?)(Config search|$)", text, re.S)
    if missing:
        group, _, option = missing[1].rpartition("/")
        options = missing[2].split()
        close = difflib.get_close_matches(option, options, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{group}={option}: no such option{hint}; expected one of {', '.join(options)}"
    merged = re.search(r"Error merging override (.*)", text)
    if merged:
        return f"{merged[1].strip()}: {_expected(cause)}"
    if "LexerNoViableAlt" in text or "Error parsing override" in text:
        override = getattr(error, "override", None) or text.splitlines()[0]
        return (
            f"{override}: not an override; expected KEY=VALUE, and quotes of its own around a value with spaces or "
            "special characters: 'train.stop_when=\"val_accuracy>=0.99\"', 'data.path=\"my file.txt\"'"
        )
    first = cause.splitlines()[0] if cause and "full_key" in cause else text
    return f"{key}: {_expected(first)}" if key and "full_key" in f"{text}{cause}" else text


def _named_key(text: str, cause: BaseException) -> str:
    named = re.search(r"Could not override '([^']+)'", text)
    return named[1] if named else str(getattr(cause, "full_key", None) or "")


def _expected(reason: str) -> str:
    """Return OmegaConf's reason in the words of this project."""
    first = (reason.splitlines() or [""])[0]
    enum = re.search(r"expected one of \[([^]]*)\]", first)
    if enum:
        return f"expected one of {enum[1]}"
    number = re.search(r"could not be converted to (Integer|Float)", first)
    if number:
        return f"expected {'a whole number, written out' if number[1] == 'Integer' else 'a number'}"
    if "is not a ListConfig" in first:
        return "expected a list, for example [a,b]"
    if "Union[int, str]" in first:
        return "expected a whole number or a word"
    return "expected a value, not null" if "is not Optional" in first else first


def _either(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" or " if len(names) > 1 else "") + names[-1]


def known_keys() -> list[str]:
    """Return every dotted key of the schema."""
    keys: list[str] = []

    def walk(config: object, prefix: str) -> None:
        for f in fields(config):  # type: ignore[arg-type]
            value = getattr(config, f.name)
            keys.append(prefix + f.name)
            if hasattr(value, "__dataclass_fields__"):
                walk(value, f"{prefix}{f.name}.")

    walk(RunConfig(), "")
    return keys


def _with_resumed(arguments: list[str]) -> list[str]:
    """Put the overrides of a resumed run before those given now, and its directory in place of a new one."""
    named = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("resume=") and a != "resume=null"]
    if not named:
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(f"resume={named[-1]} with --multirun: a sweep is not resumed; resume one run at a time")
    directory = Path(named[-1].strip("'\""))
    overrides = directory / "overrides.yaml"
    if not directory.is_dir():
        raise ConfigError(f"resume={directory}: no such directory; name a run directory below runs/")
    if (directory / "manifest.json").is_file():
        raise ConfigError(
            f"resume={directory}: an experiment has no optimizer state; resume the run directory that it was made from"
        )
    if not overrides.is_file():
        raise ConfigError(f"resume={directory}: holds no run (no overrides.yaml); name a run directory below runs/")
    try:
        earlier = yaml.safe_load(overrides.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        earlier = None
    if not isinstance(earlier, list) or not all(isinstance(item, str) for item in earlier):
        raise ConfigError(f"resume={directory}: overrides.yaml is damaged; expected a list of overrides")
    escaped = str(directory).replace("\\", "\\\\").replace("'", "\\'")
    overrides_now = [argument for argument in arguments if not argument.startswith("-")]
    flags = [argument for argument in arguments if argument.startswith("-")]
    # hydra.mode: the run may have been a job of an experiment that is a sweep.
    merged = last_of_each_key([*earlier, *overrides_now, f"hydra.run.dir='{escaped}'", "hydra.mode=RUN"])
    return [*merged, *flags]


def last_of_each_key(overrides: list[str]) -> list[str]:
    """Return the overrides without those that a later one of the same key replaces."""
    last = {override.partition("=")[0].lstrip("+~"): override for override in overrides}
    return list(last.values())


def _remove_unused(run_dir: Path) -> None:
    """Remove the directory that Hydra made for a job whose config was refused."""
    if {path.name for path in run_dir.iterdir()} <= {".hydra"}:
        shutil.rmtree(run_dir)


def _new_run_dir(parent: str, moment: str, name: str) -> str:
    """Make a directory that no other run has, and return it. A resolver, so that Hydra itself writes there."""
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", str(name)).strip("-.")[:60] or "run"
    return str(create_unique(Path(parent), f"{moment}-{slug}"))


def _run_name(*, _root_: DictConfig) -> str:
    return _root_.get("name") or default_name(_root_.hydra.runtime.choices)


def _register() -> None:
    ConfigStore.instance().store("schema", node=RunConfig)
    OmegaConf.register_new_resolver("new_run_dir", _new_run_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


_register()
