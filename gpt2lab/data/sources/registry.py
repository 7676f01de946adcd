"""Every value of `data.source`, and what the rest of the program asks of a source."""

from dataclasses import fields, replace

from gpt2lab.data.download import Progress
from gpt2lab.data.ids import check_ids
from gpt2lab.data.sources.base import Source, SourceKind
from gpt2lab.data.sources.formal import FORMAL
from gpt2lab.data.sources.modular import MODULAR
from gpt2lab.data.sources.pydocs import PYDOCS
from gpt2lab.data.sources.shakespeare import SHAKESPEARE
from gpt2lab.data.sources.text import TEXT
from gpt2lab.data.sources.tinystories import TINYSTORIES
from gpt2lab.data.sources.token_files import SHARDS
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, plain

SOURCES: dict[str, SourceKind] = {
    kind.name: kind for kind in (PYDOCS, SHAKESPEARE, TINYSTORIES, TEXT, SHARDS, MODULAR, FORMAL)
}
_KEYS_OF_ALL = ("source", "order")


def check_source(config: DataConfig) -> None:
    """Raise ConfigError for an unknown source, and for a key that is set though the source does not use it."""
    kind = SOURCES.get(config.source)
    if kind is None:
        raise ConfigError(f"data.source={config.source}: no such source; expected one of {', '.join(SOURCES)}")
    for key in fields(DataConfig):
        value = getattr(config, key.name)
        if key.name in kind.keys or key.name in _KEYS_OF_ALL or value == key.default:
            continue
        users = [other.name for other in SOURCES.values() if key.name in other.keys]
        raise ConfigError(
            f"data.{key.name}={plain(value)}: data.source={kind.name} does not use it; leave it out "
            f"({', '.join(users)} {'uses' if len(users) == 1 else 'use'} it)"
        )


def describe_source(config: DataConfig, *, vocab_size: int | None = None) -> Source:
    """Return what is known about the source that `config` names without reading it: no splits, files or detail.

    `vocab_size` (model.vocab_size) replaces the source's own vocabulary size. Raises ConfigError for an unknown source
    and for keys that do not fit.
    """
    check_source(config)
    source = SOURCES[config.source].describe(config, vocab_size)
    return source if vocab_size is None else replace(source, vocab_size=vocab_size)


def read_source(
    config: DataConfig, *, vocab_size: int | None = None, report_progress: Progress | None = None
) -> Source:
    """Return the source that `config` names; downloads and tokenises what is not there yet.

    Raises ConfigError for keys that are missing or do not fit, DataError for data that is missing, damaged, not
    available, or has ids outside the vocabulary.
    """
    source = describe_source(config, vocab_size=vocab_size)
    source.tokenizer.encode(source.prompt)  # missing vocabulary files are an error now, not when samples are written
    source = SOURCES[config.source].read(source, config, report_progress)
    for name, split in source.splits.items():
        for shard in split.shards:
            check_ids(f"data.source={source.name}, {name} split", shard, source.vocab_size)
    return source
