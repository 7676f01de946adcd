"""data=shards: llm.c token files of the user."""

from dataclasses import replace

import numpy as np

from gpt2lab.data.batches import Split
from gpt2lab.data.download import Progress
from gpt2lab.data.ids import check_ids, parts
from gpt2lab.data.shards import find_shards, hash_shards, read_shard
from gpt2lab.data.sources.base import Source, SourceKind
from gpt2lab.data.tokenizers import END_OF_TEXT, SymbolTokenizer, Tokenizer, read_tokenizer
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, TokenizerName

_IDS = "ids"  # tokenizer of ids that no known tokenizer made: they are shown as numbers
_PROMPTS = {TokenizerName.bytes.name: "\n", TokenizerName.gpt2.name: END_OF_TEXT, _IDS: "0"}


def _describe(config: DataConfig, vocab_size: int | None) -> Source:
    tokenizer = read_tokenizer(config.tokenizer)
    if vocab_size is not None and vocab_size < tokenizer.vocab_size:
        # A smaller vocabulary says that another tokenizer made these ids.
        tokenizer = SymbolTokenizer(_IDS, tuple(str(i) for i in range(vocab_size)))
    prompt = _PROMPTS[tokenizer.name]
    return Source(name="shards", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size, prompt=prompt)


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    patterns = {"train": config.train, "val": config.val, "test": config.test}
    for name in ("train", "val"):
        if patterns[name] is None:
            raise ConfigError(
                f"data.{name} is not set: data=shards needs data.train and data.val; name a token file or a pattern "
                f"such as data.{name}='data/*_{name}_*.bin'"
            )
    paths = {name: find_shards(p, key=f"data.{name}") for name, p in patterns.items() if p is not None}
    splits = {}
    for name, files in paths.items():
        shards = tuple(read_shard(path) for path in files)
        for path, shard in zip(files, shards, strict=True):
            check_ids(str(path), shard, source.vocab_size)
        splits[name] = Split(shards=shards, n_bytes=_count_bytes(name, shards, source.tokenizer))
    detail: dict[str, object] = {f"{name} shards": len(files) for name, files in paths.items()}
    return replace(source, splits=splits, files=hash_shards(paths, report_progress), detail=detail)


def _count_bytes(split: str, shards: tuple[np.ndarray, ...], tokenizer: Tokenizer) -> int | None:
    """Return the UTF-8 bytes behind token files, None where unknown; a large training set is not read for it."""
    if tokenizer.name == TokenizerName.bytes.name:
        return sum(shard.size for shard in shards)
    if tokenizer.name == _IDS or split == "train":
        return None
    return sum(tokenizer.count_bytes(part) for part in parts(shards))


SHARDS = SourceKind(
    name="shards", keys=frozenset({"train", "val", "test", "tokenizer"}), describe=_describe, read=_read
)
