"""Errors of Hydra and OmegaConf as one line in this project's words."""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gpt2lab.errors import ConfigError, Gpt2labError
from gpt2lab.record.values import flatten
from gpt2lab.schema import RunConfig, plain


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Turn an error of Hydra or OmegaConf into one ConfigError."""
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
    named = re.search(r"Could not override '([^']+)'", text)
    key = named[1] if named else str(getattr(error.__cause__ or error, "full_key", None) or "")
    if re.search(r"not in struct|Key '[^']*' (is )?not in", f"{text} {cause}"):
        close = difflib.get_close_matches(key, known_keys(), n=3, cutoff=0.6)
        close = close or [name for name in known_keys() if name.split(".")[-1] == key.split(".")[-1]]
        hint = f"did you mean {' or '.join(close)}?" if close else "see --cfg job for every key"
        return f"unknown key {key}: {hint}"
    missing = re.search(r"Could not find '([^']+)'.*?Available options in '[^']+':(.*?)(Config search|$)", text, re.S)
    if missing:
        group, _, option = missing[1].rpartition("/")
        options = missing[2].split()
        if group == "hydra/launcher":
            extra = option.partition("_")[0]
            return (
                f"{group}={option}: not installed; expected one of {', '.join(options)}; joblib, submitit and ray come "
                f"with pip install 'gpt2lab[{extra if extra in ('joblib', 'submitit', 'ray') else 'joblib'}]'"
            )
        close = difflib.get_close_matches(option, options, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{group}={option}: no such option{hint}; expected one of {', '.join(options)}"
    merged = re.search(r"Error merging override (.*)", text)
    if merged:
        return f"{merged[1].strip()}: {_expected(cause)}"
    if "LexerNoViableAlt" in text or "Error parsing override" in text or "mismatched input" in text:
        override = getattr(error, "override", None) or text.splitlines()[0]
        return (
            f"{override}: not an override; expected KEY=VALUE, and quotes of its own around a value with spaces or "
            "special characters: 'train.stop_when=\"val_accuracy>=0.99\"', 'data.path=\"my file.txt\"'"
        )
    first = cause.splitlines()[0] if cause and "full_key" in cause else text
    return f"{key}: {_expected(first)}" if key and "full_key" in f"{text}{cause}" else text


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


def known_keys() -> list[str]:
    """Return every dotted key of the schema, each group before its keys."""
    keys = flatten(plain(RunConfig()))
    return list(dict.fromkeys(name for key in keys for name in (key.partition(".")[0], key)))
