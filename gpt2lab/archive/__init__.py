"""The archive: experiments that are numbered, complete and described by their own files."""

from gpt2lab.archive.experiments import (
    find_experiments,
    list_experiments,
    list_provenance,
    read_summary,
    resolve_experiment,
)
from gpt2lab.archive.index import check_root, write_index
from gpt2lab.archive.manifest import read_manifest
from gpt2lab.archive.references import expand, resolve, resolve_run, starting_weights, weights_of
from gpt2lab.archive.store import archived_as, create
from gpt2lab.archive.sweeps import status_words
