"""The templates of pages. All values that a template prints are escaped."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from gpt2lab.report.canvas import Picture
from gpt2lab.report.markdown import Markdown, escape


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
    environment.filters |= {"bullets": _bullets, "figures": _figures, "findings": _findings, "part": _part}
    return environment.get_template(name)


def _bullets(items: Iterable[Any]) -> Markdown:
    return Markdown("\n".join(f"- {escape(item)}" for item in items))


def _findings(findings: Iterable[Mapping[str, str]]) -> Markdown:
    return _bullets(Markdown(f"**{escape(finding['verdict'])}.** {escape(finding['text'])}") for finding in findings)


def _figures(pictures: Iterable[Picture]) -> list[Markdown]:
    return [Markdown(f"![{escape(p.alt)}](figures/{p.file})\n\n*{escape(p.caption)}*") for p in pictures]


def _part(value: Any, heading: str = "") -> Markdown:
    """Return a paragraph, or several, below the line before and `heading`; nothing where none has text."""
    paragraphs = [escape(text) for text in (value if isinstance(value, list) else [value]) if text]
    return Markdown("".join(f"\n\n{part}" for part in (heading, *paragraphs) if part and paragraphs))
