"""What the bytes of a report depend on beside its record."""

import functools

from gpt2lab.record.identity import report_hash
from gpt2lab.record.provenance import read_versions
from gpt2lab.record.source_archive import find_source_root

LIBRARIES = ("jinja2", "matplotlib", "numpy", "scipy")


@functools.cache
def written_by() -> dict[str, str]:
    """Return `report_hash` of the report code of this process, and the versions of the libraries that it uses."""
    return {"report_hash": report_hash(find_source_root()), **read_versions(LIBRARIES)}
