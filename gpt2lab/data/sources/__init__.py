"""Data sources: one file for each kind, found by name in `SOURCES`."""

from gpt2lab.data.sources.base import Source, SourceKind
from gpt2lab.data.sources.registry import SOURCES, check_source, describe_source, read_source
