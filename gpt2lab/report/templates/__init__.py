"""The templates of pages. All values that a template prints are escaped."""

from pathlib import Path

import jinja2

from gpt2lab.report import markdown
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
    environment.filters["cells"] = markdown.table_row
    environment.filters["numeric"] = lambda columns: Markdown("|" + " ---: |" * len(columns))
    environment.filters["as_is"] = lambda text: Markdown(text.strip("\n"))  # of a macro, which has escaped its values
    return environment.get_template(name)
