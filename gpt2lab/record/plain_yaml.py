"""Reading a YAML file that may come from a stranger: plain values, of bounded size, or one line that says why not."""

from pathlib import Path
from typing import Any

import yaml

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import read_plain_file

MAX_BYTES = 256 << 10  # a hundred times what a config needs
MAX_VALUES = 10_000  # with aliases written out
MAX_DEPTH = 100
MAX_DIGITS = 1000
_KINDS: dict[type, str] = {dict: "mapping", list: "list"}
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, ten times as fast where PyYAML was built with libyaml; it makes no objects of tags."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse `<<`, which no config has and which multiplies values before anything can count them."""
        if any(key.tag == _MERGE for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it merges mappings with <<", node.start_mark)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MAX_DIGITS:  # 1:1:1:... in base 60 takes the square of its length
        raise yaml.constructor.ConstructorError(None, None, f"a number of {len(node.value)} digits", node.start_mark)
    return int(loader.construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def read_yaml(path: Path, kind: type[dict[Any, Any]] | type[list[Any]], *, empty: bool = False) -> Any:
    """Return the mapping or list in a YAML file; `empty` takes a file without a value as an empty one.

    Raises ArchiveError when the file is missing, damaged, of another kind, or larger than the limits of this module.
    """
    content = read_plain_file(path, MAX_BYTES)
    try:
        text = content.decode()
        _refuse_depth(text)
        value = yaml.load(text, _Loader)
        _refuse_bomb(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a day 99 is a ValueError
        raise ArchiveError(f"{path}: damaged, it is not YAML ({' '.join(str(error).split())})") from None
    if value is None and empty:
        return kind()
    if not isinstance(value, kind):
        raise ArchiveError(f"{path}: damaged, expected a {_KINDS[kind]}, got {type(value).__name__}")
    return value


def _refuse_depth(text: str) -> None:
    """Raise ValueError for nesting that a loader would follow on the C stack, until the process dies."""
    # A level takes a bracket, or a column more at the beginning of a line (a list in a mapping may share its column).
    columns = max((len(line) - len(line.lstrip(" \t-?:")) for line in text.splitlines()), default=0)
    if text.count("[") + text.count("{") + 2 * columns <= MAX_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")


def _refuse_bomb(value: Any) -> None:
    """Raise ValueError when `value`, with its aliases written out, holds more values than any config."""
    waiting = [value]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple | set):
            waiting += item
    raise ValueError(f"more than {MAX_VALUES:,} values")
