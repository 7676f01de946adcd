"""Choosing experiments by what their config and results say: `val_loss<2 and optim.weight_decay==0.1`.

The expression is read by Python's parser and then walked: comparisons of a key with a number or a word, joined by
and, or, not. Anything else is refused, and nothing is evaluated as Python.
"""

import ast
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpt2lab.archive.experiments import Listed
from gpt2lab.errors import ArchiveError, ConfigError
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.values import is_number

_MAX_LENGTH = 1000  # characters of an expression
_MAX_DEPTH = 2  # of the keys that an error suggests: a.b.c
_MAX_NAMES = 1000
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_OPERATORS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}
_EXPECTED = 'expected comparisons like val_loss<2 and data.source==pydocs, joined by and, or, not; "..." around a word'


@dataclass(slots=True)
class Values:
    """What can be asked of one experiment: its number, its results, then the keys of its config, read when needed."""

    experiment: Listed
    _config: dict[str, Any] | None = field(default=None, init=False)

    def find(self, key: str) -> tuple[bool, Any]:
        """Return (whether there is such a key, its value). A group of keys or a list is not a value."""
        if key in ("number", "slug"):
            return True, getattr(self.experiment, key)
        found, value = _look_up(self.experiment.summary, key)
        if not found:
            found, value = _look_up(self._read_config(), key)
        return found, value

    def _read_config(self) -> dict[str, Any]:
        if self._config is None:
            try:
                self._config = RunDir(self.experiment.path).read_config()
            except ArchiveError:  # damaged, or a sweep: it has none of the keys
                self._config = {}
        return self._config

    def names(self) -> list[str]:
        """Return the dotted keys that have a value, the first thousand."""
        every = itertools.chain(_keys(self.experiment.summary), _keys(self._read_config()))
        return ["number", "slug", *itertools.islice(every, _MAX_NAMES)]


@dataclass(slots=True, kw_only=True)
class _Comparison:
    key: str
    sign: str
    compare: Callable[[Any, Any], bool]
    value: Any
    known: bool = False
    comparable: bool = False
    other: Any = None  # a value of another kind that was met

    def holds(self, values: Values) -> bool:
        """Whether it is true of one experiment. What is not measured is in no order; kinds are not mixed."""
        found, value = values.find(self.key)
        self.known |= found
        if self.sign in ("==", "!="):
            self.comparable = True
            equal = _kind(value) == _kind(self.value) and value == self.value
            return found and (equal if self.sign == "==" else not equal)
        if value is None:
            return False
        if _kind(value) != _kind(self.value):
            self.other = value
            return False
        self.comparable = True
        return self.compare(value, self.value)


def select(experiments: Iterable[Listed], expression: str) -> list[Listed]:
    """Return the experiments of which `expression` is true. Raises ConfigError for one that cannot be read, and for a
    key that no experiment has.
    """
    leaves: dict[ast.Compare, _Comparison] = {}
    tree = _parse(expression, leaves)
    values = [Values(experiment) for experiment in experiments]
    chosen = []
    for one in values:
        # Every comparison of every experiment, so that an unknown key is found wherever it stands.
        truths = {node: leaf.holds(one) for node, leaf in leaves.items()}
        if _combine(tree, truths):
            chosen.append(one.experiment)
    for leaf in leaves.values():
        if values and not leaf.known:
            raise ConfigError(f"--where: {_unknown(leaf.key, values)}")
        if leaf.other is not None and not leaf.comparable:
            raise ConfigError(
                f"--where: {leaf.key}{leaf.sign}{leaf.value!r} never holds: {leaf.key} is a {_kind(leaf.other)}, "
                f"for example {leaf.other!r}"
            )
    return chosen


def sort(experiments: Iterable[Listed], key: str) -> list[Listed]:
    """Return the experiments by the value of `key`, upwards, or downwards for `-key`; those without it last.

    Raises ConfigError for a key that no experiment has.
    """
    name = key.removeprefix("-")
    values = [Values(experiment) for experiment in experiments]
    found = [(*one.find(name), one.experiment) for one in values]
    if values and not any(has for has, _, _ in found):
        raise ConfigError(f"--sort: {_unknown(name, values)}")
    # Twice sorted, both keeping the order of equals: by value within a kind, then by kind, with null at the end.
    kinds = {"number": 0, "word": 1, "truth value": 2}
    result: list[Listed] = []
    for kind in kinds:
        of_kind = [(value, experiment) for _, value, experiment in found if _kind(value) == kind]
        of_kind.sort(key=lambda pair: pair[0], reverse=key.startswith("-"))
        result += [experiment for _, experiment in of_kind]
    return result + [experiment for _, value, experiment in found if _kind(value) not in kinds]


def _parse(expression: str, leaves: dict[ast.Compare, _Comparison]) -> ast.expr:
    if len(expression) > _MAX_LENGTH:
        raise ConfigError(f"--where: {len(expression):,} characters, at most {_MAX_LENGTH:,}")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        _check(tree, leaves)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ConfigError):
            raise
        hint = "; equal is ==" if "==" not in expression and "=" in expression else ""
        raise ConfigError(f"--where {expression!r}: cannot be read{hint}; {_EXPECTED}") from None
    return tree


def _check(node: ast.expr, leaves: dict[ast.Compare, _Comparison]) -> None:
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check(part, leaves)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _check(operand, leaves)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            key = _dotted(left)
            if key is None:
                raise ConfigError(f"--where: {ast.unparse(node)}: the key comes first; {_EXPECTED}")
            sign, compare = _OPERATORS[type(op)]
            value = _constant(right)
            if sign not in ("==", "!=") and (value is None or isinstance(value, bool)):
                raise ConfigError(f"--where: {ast.unparse(node)}: {ast.unparse(right)} has no order; use == or !=")
            leaves[node] = _Comparison(key=key, sign=sign, compare=compare, value=value)
        case _:
            raise ConfigError(f"--where: {ast.unparse(node)[:200]!r} is no comparison; {_EXPECTED}")


def _constant(node: ast.expr) -> Any:
    word = _dotted(node)
    if word is not None:
        return _WORDS.get(word.lower(), word)
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise ConfigError(f"--where: {ast.unparse(node)[:200]!r} is neither a number nor a word; {_EXPECTED}")


def _dotted(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            parent = _dotted(value)
            return None if parent is None else f"{parent}.{name}"
    return None


def _combine(node: ast.expr, truths: dict[ast.Compare, bool]) -> bool:
    match node:
        case ast.Compare():
            return truths[node]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_combine(part, truths) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_combine(part, truths) for part in parts)
        case ast.UnaryOp(operand=operand):
            return not _combine(operand, truths)
    raise AssertionError(f"_check let {node} through")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, int | float):
        # NaN is in no order; an infinite loss is above every other.
        return "number" if is_number(value) or value in (math.inf, -math.inf) else "null"
    return "word" if isinstance(value, str) else "null"


def _look_up(content: dict[str, Any], key: str) -> tuple[bool, Any]:
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return not isinstance(value, dict | list), value


def _keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, dict):
            if prefix.count(".") >= _MAX_DEPTH:  # a YAML mapping can hold itself
                continue
            yield from _keys(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield f"{prefix}{name}"


def _unknown(key: str, values: list[Values]) -> str:
    """Say that no experiment has `key`, with the keys that are like it."""
    import difflib  # only an error needs it

    keys = list(dict.fromkeys(name for one in values[-20:] for name in one.names()))
    close = [name for name in keys if name.rpartition(".")[2] == key or name.startswith(f"{key}.")][:5]
    close = close or difflib.get_close_matches(key, keys, n=3)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else "gpt2lab show N --json prints the results, config.yaml the keys"
    )
    return f"no experiment has a value {key!r}; {hint}"
