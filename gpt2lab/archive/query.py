"""SQL over the archive: one query that only reads, on the tables of `archive.tables` in memory."""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gpt2lab.archive.experiments import Listed
from gpt2lab.archive.summary_keys import SUMMARY_KEYS
from gpt2lab.archive.tables import COLUMNS, RUN_TABLES, Tables
from gpt2lab.errors import ConfigError
from gpt2lab.record.columns import COLUMNS as METRICS

MAX_ROWS = 10_000
MAX_CHARACTERS = 10_000_000  # of a whole result
MAX_QUERY_BYTES = 20_000
MAX_COLUMNS = 2_000  # of a table, as SQLite is compiled
MAX_VALUE_BYTES = 1 << 20
TIME_LIMIT_S = 20.0
_HEAP_BYTES = 1 << 30
_STEPS_PER_LOOK = 10_000  # instructions of SQLite between two looks at the clock

# A statement passes through as it is, but for names: "NAME" becomes `NAME`, because SQLite takes an unknown name in
# double quotes for text, and a dotted column becomes one quoted name.
_NAME = r'(?:[^\W\d]\w*|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])'
_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<value>'(?:[^']|'')*'|\.?\d[\w.]*)"
    rf"|(?P<name>{_NAME}(?:\s*\.\s*{_NAME})*)"
    r"|(?P<sign>[<>=!]+|.)",
    re.DOTALL,
)
_ORDERED = {"<", "<=", ">", ">="}
_COMPARED = {"=", "==", "!=", "<>", *_ORDERED}
_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_JSON_TABLES = ("json_each", "json_tree")


_OF_METRICS = {entry.name: (entry.unit or None, entry.description) for entry in METRICS}
_IDENTITY = {
    "number": (None, "number of the experiment"),
    "slug": (None, "its name as in the name of its folder"),
    "run": (None, "4, or 4/12 for job 12 of a sweep"),
    "job": (None, "number of the job; NULL for a single run"),
    "label": (None, "what sets a job of a sweep apart"),
    "status": (None, "how the run ended"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """What a query gave, in SQLite's values: None, int, float, str or bytes."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    damage: tuple[str, ...]  # files that could not be read, so that their values are missing


def select(experiments: list[Listed], query: str) -> QueryResult:
    """Return the result of `query`, one SELECT over the tables.

    Raises ConfigError for what SQLite refuses, an unknown name, a statement that does more than read, and a query
    beyond the limits of this module.
    """
    return _run(experiments, query, "sql")


def choose(
    experiments: list[Listed], *, where: str | None = None, sort: str | None = None
) -> tuple[list[Listed], tuple[str, ...]]:
    """Return the experiments for which the SQL condition `where` is true, by the column `sort` (-COLUMN: descending),
    and the damage, as in QueryResult.

    Numbers come before text, and NULL last either way. Raises ConfigError as `select`.
    """
    if where is not None:
        _check_condition(where)
    condition = "TRUE" if where is None else f"(\n{where}\n)"  # a comment in it ends with its line
    key = _quote("number" if sort is None else sort.removeprefix("-"))
    direction = "DESC" if sort and sort.startswith("-") else "ASC"
    order = f"{key} IS NULL, typeof({key}) = 'text', {key} {direction}, number"
    query = f"SELECT _rowid_ FROM experiments WHERE {condition} ORDER BY {order}"
    label = " ".join(option for option, value in (("--where", where), ("--sort", sort)) if value is not None)
    if not experiments:
        return [], ()
    result = _run(experiments, query, label)
    return [experiments[position - 1] for (position,) in result.rows], result.damage


def describe(experiments: list[Listed]) -> QueryResult:
    """Return a row per column of each table: how many values it has, the last of them, its unit and its meaning.

    Keys of configs have a meaning in the schema only, in README.md.
    """
    tables = Tables(experiments, names=RUN_TABLES, every_config=True)
    rows = []
    for table, columns in tables.columns().items():
        meanings = _IDENTITY | (SUMMARY_KEYS if table == "experiments" else _OF_METRICS)
        for name in columns:
            values = [row[name] for row in tables.rows[table] if row.get(name) is not None]
            example = values[-1] if values else None
            rows.append((table, name, len(values), example, *meanings.get(name, (None, None))))
    titles = ("table", "column", "values", "example", "unit", "meaning")
    return QueryResult(columns=titles, rows=rows, damage=tuple(tables.damage))


def _run(experiments: list[Listed], query: str, label: str) -> QueryResult:
    """Return the result of a query; `label` begins its errors."""
    _check(query, label)
    names = _names(query)
    # `SELECT *` shows what is in the configs too, count(*) does not; NATURAL joins by all columns.
    if re.search(r"[^(\s]\s*\*", query) or "natural" in names:
        return _execute(Tables(experiments, names, every_config=True), None, query, label)
    if "experiments" not in names or not names & RUN_TABLES:  # else a name of both configs would be that of the runs
        with contextlib.suppress(_UnknownNameError):
            return _execute(Tables(experiments, names), names, query, label)
    return _execute(Tables(experiments, names, every_config=True), names, query, label)


class _UnknownNameError(ConfigError):
    """A query that names a column or a table that there is not."""


def _execute(tables: Tables, asked: set[str] | None, query: str, label: str) -> QueryResult:
    """Return the result over the columns that are `asked` for, by default all of them."""
    columns, end = tables.columns(), 0.0
    try:
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for table, every in columns.items():
                names = [name for name in every if asked is None or name in asked or name in COLUMNS[table]]
                if len(names) > MAX_COLUMNS:
                    has = f"{table} has {len(names):,} columns, at most {MAX_COLUMNS:,} are read"
                    raise ConfigError(f"{label}: {has}; name columns instead of *")
                rows = [[row.get(name) for name in names] for row in tables.rows[table]]
                kinds = map(_kind, zip(*rows, strict=True)) if rows else [""] * len(names)
                declared = [f"{_quote(name)} {kind}" for name, kind in zip(names, kinds, strict=True)]
                connection.execute(f"CREATE TABLE {table} ({', '.join(declared)})")
                connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", rows)
            end = _restrict(connection)
            cursor = connection.execute(_translate(query, columns))
            found = list(_limited(cursor, label))
            named = tuple(column[0] for column in cursor.description or ())
            return QueryResult(columns=named, rows=found, damage=tuple(tables.damage))
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        if isinstance(error, ConfigError):
            raise
        if str(error) == "interrupted" and time.monotonic() < end:
            raise KeyboardInterrupt from None  # sqlite3 lets no exception out of its progress handler
        raise _describe(error, columns, label) from None


def _kind(values: Iterable[Any]) -> str:
    """Return the type of a column of numbers, with which SQLite compares text as a number too; "" for any other.

    Not NUMERIC, which stores 1.0 as 1, and divides that as a whole number.
    """
    kinds = {type(value) for value in values if value is not None}
    return "INTEGER" if kinds == {int} else "REAL" if kinds and kinds <= {int, float} else ""


def _restrict(connection: sqlite3.Connection) -> float:
    """Leave the connection nothing but reading, until the moment returned (monotonic), and within limited memory."""
    for function in _JSON_TABLES:  # SQLite makes a table of each at its first use, which is not authorized later
        connection.execute(f"SELECT 1 FROM {function}('[]')")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 2 * MAX_QUERY_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100)

    def authorize(action: int, table: str | None, column: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ:
            # A table none of whose columns is read, as for count(*), may be one that a WITH names.
            counted = column == "" and not str(table).lower().startswith(("sqlite_", "pragma_"))
            return sqlite3.SQLITE_OK if counted or table in (*COLUMNS, *_JSON_TABLES) else sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK if action in _ACTIONS else sqlite3.SQLITE_DENY

    end = time.monotonic() + TIME_LIMIT_S
    connection.set_authorizer(authorize)
    connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_PER_LOOK)
    return end


def _limited(cursor: sqlite3.Cursor, label: str) -> Iterator[tuple[Any, ...]]:
    characters = 0
    for count, row in enumerate(cursor, 1):
        characters += sum(len(value) for value in row if isinstance(value, str | bytes))
        if count > MAX_ROWS or characters > MAX_CHARACTERS:
            limit = f"{MAX_ROWS:,} rows" if count > MAX_ROWS else f"{MAX_CHARACTERS:,} characters"
            raise ConfigError(f"{label}: the result has more than {limit}; add a WHERE, an aggregate or a LIMIT")
        yield row


def _tokens(query: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of each token: space, value, name or sign."""
    return ((str(match.lastgroup), match[0]) for match in _TOKEN.finditer(query))


def _parts(name: str) -> list[str]:
    """Return the parts of a dotted name without their quotes."""
    quotes = {'"': '"', "`": "`", "[": "]"}
    parts = []
    for part in re.findall(_NAME, name):
        end = quotes.get(part[0])
        parts.append(part[1:-1].replace(end * 2, end) if end else part)
    return parts


def _names(query: str) -> set[str]:
    """Return the names in a query in lower case; of a.b.c also b.c and c, since a may be an alias."""
    chains = [_parts(text) for kind, text in _tokens(query) if kind == "name"]
    return {".".join(parts[start:]).casefold() for parts in chains for start in range(len(parts))}


def _check_condition(where: str) -> None:
    """Raise ConfigError for a condition that is empty, or leaves the parentheses that are put around it."""
    if all(kind == "space" for kind, _ in _tokens(where)):
        raise ConfigError("--where: empty condition")
    depth = 0
    for kind, text in _tokens(where):
        depth += {"(": 1, ")": -1}.get(text, 0) if kind == "sign" else 0
        if depth < 0:
            raise ConfigError("--where: a parenthesis is closed that was not opened")
    if depth:
        raise ConfigError("--where: a parenthesis is opened and not closed")


def _check(query: str, label: str) -> None:
    """Raise ConfigError for what SQLite would carry out and nobody means, and for what does more than read."""
    if len(query.encode(errors="replace")) > MAX_QUERY_BYTES:
        raise ConfigError(f"{label}: {len(query):,} characters, at most {MAX_QUERY_BYTES:,} are read")
    tokens = [(kind, text.casefold()) for kind, text in _tokens(query) if kind != "space"]
    if not tokens or tokens[0][1] not in ("select", "with", "values"):
        got = f"got {tokens[0][1].upper()[:40]!r}" if tokens else "got nothing"
        raise ConfigError(f"{label}: expected a query that reads, SELECT ... or WITH ... SELECT ...; {got}")
    if any(kind == "sign" and text in ("'", '"', "`", "[") for kind, text in tokens):
        raise ConfigError(f"{label}: a quote is opened and not closed")
    if marks := [text for kind, text in tokens if kind == "sign" and text in "?:@$"]:
        raise ConfigError(f"{label}: {marks[0]} marks a parameter, and a query has none; write the value itself")
    for (_, first), (kind, second), (_, third) in zip(tokens, tokens[1:], [*tokens[2:], ("", "")], strict=False):
        if first in _COMPARED and second == "null":
            raise ConfigError(f"{label}: {first} NULL is true of nothing; write IS NULL or IS NOT NULL")
        if first in _ORDERED and kind in ("name", "value") and third in _ORDERED:
            raise ConfigError(
                f"{label}: {first} {second} {third} compares a truth value with a number; write two comparisons "
                "joined by AND, or BETWEEN"
            )


def _translate(query: str, columns: dict[str, tuple[str, ...]]) -> str:
    dotted = {name.casefold() for names in columns.values() for name in names if "." in name}
    return "".join(_translated(text, dotted) if kind == "name" else text for kind, text in _tokens(query))


def _translated(name: str, dotted: set[str]) -> str:
    parts = _parts(name)
    for start in range(len(parts) - 1):
        column = ".".join(parts[start:])
        if column.casefold() in dotted:
            return ".".join(map(_quote, [*parts[:start], column]))
    return name if '"' not in name else ".".join(map(_quote, parts))


def _quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _describe(error: Exception, columns: dict[str, tuple[str, ...]], label: str) -> ConfigError:
    """Return one line for what SQLite said."""
    said = str(error)
    if unknown := re.match(r"no such (column|table): (.*)", said, re.DOTALL):
        return _UnknownNameError(f"{label}: {_unknown(unknown[1], unknown[2], columns)}")
    if any(word in said for word in ("not authorized", "prohibited", "vtable")):
        return ConfigError(f"{label}: only reading is allowed, of the tables {', '.join(columns)} ({said})")
    if isinstance(error, MemoryError):
        said = f"it needs more than {_HEAP_BYTES >> 20} MiB of memory"
    elif said == "interrupted":
        said = f"stopped after {TIME_LIMIT_S:g} s"
    elif "one statement" in said:
        said = "expected one statement, got several"
    return ConfigError(f"{label}: {said}")


def _unknown(kind: str, name: str, columns: dict[str, tuple[str, ...]]) -> str:
    """Say that there is no such column or table, with those like it."""
    import difflib  # only an error needs it

    if owners := [table for table, names in columns.items() if kind == "column" and name in names]:
        return f"there is no column {name!r} in the table of this query; it is one of {' and '.join(owners)}"
    every = list(columns) if kind == "table" else list(dict.fromkeys(n for names in columns.values() for n in names))
    last = name.rpartition(".")[2]
    near = [known for known in every if last in (known, known.rpartition(".")[2]) or known.startswith(f"{name}.")][:5]
    close = difflib.get_close_matches(last, [known.rpartition(".")[2] for known in every], n=3, cutoff=0.75)
    near = near or [known for known in every if known.rpartition(".")[2] in close][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else "gpt2lab sql --tables lists them"
    text = f" (text is written in single quotes: '{name}')" if kind == "column" and "." not in name else ""
    return f"there is no {kind} {name!r}; {hint}{text}"
