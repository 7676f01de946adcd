"""The templates of pages. All values that a template prints are escaped."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from gpt2lab.report.canvas import Picture
from gpt2lab.report.markdown import Markdown, escape, table_row


def template(name: str) -> jinja2.Template:
    """Return a template of a page; values that are not Markdown already are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"bullets": _bullets, "figure": _figure, "rows": _rows, "table": _table}
    environment.filters["cells"] = table_row
    environment.filters["numeric"] = lambda columns: Markdown("|" + " ---: |" * len(columns))
    return environment.get_template(name)


def _bullets(items: Iterable[Any]) -> Markdown:
    return Markdown("\n".join(f"- {escape(item)}" for item in items))


def _figure(picture: Picture) -> Markdown:
    return Markdown(f"![{escape(picture.alt)}](figures/{picture.file})\n\n*{escape(picture.caption)}*")


def _rows(rows: Iterable[Iterable[Any]]) -> Markdown:
    return Markdown("\n".join(map(table_row, rows)))


def _table(table: Any) -> Markdown:
    below = f"\n\n{escape(table.below)}" if table.below else ""
    return Markdown(f"{table_row(table.heads)}\n{table.rule}\n{_rows(table.rows)}{below}")
