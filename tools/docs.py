"""Write the tables of README.md that come from conf/, the schema, the metrics, the summary, the commands and the
measurements.

python tools/docs.py           rewrite what stands between the markers
python tools/docs.py --check   change nothing; exit with 1 when README.md differs
"""

import ast
import io
import json
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where this file is read as a module

from bench_rows import measured_rows

from gpt2lab.archive.summary_keys import SUMMARY_KEYS
from gpt2lab.cli.main import group as command_group
from gpt2lab.compose import compose, known_keys
from gpt2lab.record import columns
from gpt2lab.schema import RunConfig, plain

PROJECT = Path(__file__).resolve().parent.parent
README = PROJECT / "README.md"


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def option_comment(file: Path) -> tuple[str, str]:
    """Return (command, what it does) from the comment that a YAML begins with."""
    comments = [line.removeprefix("# ") for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    comment = next(line for line in comments if not line.startswith("@package"))
    command, separator, meaning = comment.partition(": ")
    if not separator:
        raise SystemExit(f"{file}: expected a first comment like `# COMMAND: what it is`, got {comment!r}")
    return command, meaning


def option_rows() -> Iterator[list[str]]:
    """Yield one row per option of every config group, the groups in the order of config.yaml."""
    defaults = yaml.safe_load((PROJECT / "conf" / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    for entry in defaults:
        if not isinstance(entry, dict) or next(iter(entry)).startswith("override"):
            continue
        [(group, chosen)] = entry.items()
        for file in sorted(
            (PROJECT / "conf" / group).glob("*.yaml"), key=lambda file: (file.stem != chosen, file.stem)
        ):
            command, meaning = option_comment(file)
            name = f"`{group}={file.stem}`" + (" (default)" if file.stem == chosen else "")
            yield [name, meaning, f"`{command.removeprefix('python -m ')}`"]


def field_comments() -> dict[tuple[str, str], str]:
    """Return {(dataclass, field): the comment behind it} of the schema."""
    found = {}
    for file in sorted((PROJECT / "gpt2lab" / "schema").glob("*.py")):
        source = file.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {t.start[0]: t.string.removeprefix("#").strip() for t in tokens if t.type == tokenize.COMMENT}
        for owner in [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]:
            for item in owner.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    found[owner.name, item.target.id] = comments.get(item.lineno, "")
    return found


def shown(value: Any) -> str:
    """Return a value as YAML and the command line write it."""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def key_rows() -> Iterator[list[str]]:
    """Yield one row per key: its name, its value in the default run, and the comment behind it in the schema."""
    comments, config = field_comments(), RunConfig()
    values = {**plain(compose([])), "name": None}  # the name is made from the choices
    for key in known_keys():
        group, _, name = key.rpartition(".")
        owner = type(getattr(config, group) if group else config).__name__
        value = values[group][name] if group else values[name]
        if isinstance(value, dict):
            continue
        if not comments[owner, name]:
            raise SystemExit(f"gpt2lab/schema: {owner}.{name} needs a comment behind it that says what it is")
        yield [f"`{key}`", shown(value), comments[owner, name]]


def command_rows(group: click.Group, parent: click.Context) -> Iterator[list[str]]:
    """Yield one row per command, those of subgroups included."""
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from command_rows(command, context)
            continue
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        words = [p.human_readable_name if p.required else f"[{p.human_readable_name}]" for p in arguments]
        yield [f"`{' '.join([context.command_path, *words])}`", command.get_short_help_str(limit=200)]


def options_table() -> str:
    return table(("option", "what it is", "example, after `python -m`"), option_rows())


def keys_table() -> str:
    return table(("key", "default", "meaning"), key_rows())


def metrics_table() -> str:
    return table(("column", "unit", "meaning"), ((f"`{c.name}`", c.unit, c.description) for c in columns.COLUMNS))


def summary_table() -> str:
    return table(
        ("column", "unit", "meaning"),
        ((f"`{name}`", unit or "", meaning) for name, (unit, meaning) in SUMMARY_KEYS.items()),
    )


def commands_table() -> str:
    top = click.Context(command_group, info_name="gpt2lab")
    return table(("command", "what it does"), command_rows(command_group, top))


def speed_table() -> str:
    """Return what was measured against what, each row from the newest record in tools/benchmarks/ that has it."""
    rows, sources = [], []
    for row, found, record in measured_rows():
        ratio = "not measured yet"
        if found:
            rounds = f"; {found['rounds']} rounds" if "rounds" in found else ""  # older records do not say
            ratio = f"{found['ratio']:.3f} ({found['ratio_q1']:.3f} to {found['ratio_q3']:.3f}{rounds})"
            source = f"{record['device']}, {record['cores']} cores, PyTorch {record['versions']['torch']}"
            sources.append(f"{source}, {record['date'][:10]}")
        missed = "" if not found or row.met_by(found["ratio"]) else ": missed"
        rows.append([row.case, row.against, ratio, row.words + missed])
    where = f"\n\nMeasured on: {'; '.join(dict.fromkeys(sources))}." if sources else ""
    return table(("case", "against", "ratio (quartiles)", "bound"), rows) + where


SECTIONS: dict[str, Callable[[], str]] = {
    "options": options_table,
    "keys": keys_table,
    "metrics": metrics_table,
    "summary": summary_table,
    "commands": commands_table,
    "speed": speed_table,
}


def generate(text: str) -> str:
    """Return README.md's text with each section made anew. Exits when a marker is missing."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise SystemExit(f"README.md: expected {begin} and {end}, once each and in this order")
        before, after = text[: text.index(begin)], text[text.index(end) :]
        text = f"{before}{begin}\n\n{make()}\n\n{after}"
    return text


def main(arguments: list[str]) -> int:
    """Rewrite README.md, or with --check compare it; return the exit code."""
    text = README.read_text(encoding="utf-8")
    generated = generate(text)
    if "--check" not in arguments:
        README.write_text(generated, encoding="utf-8")
    elif generated != text:
        sources = "conf/, the schema, the metrics, the summary, the commands or tools/benchmarks/"
        print(f"README.md differs from {sources}: run python tools/docs.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
