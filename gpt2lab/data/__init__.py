"""Tokens in, batches out: sources, token shards, tokenizers and the order of training."""

from gpt2lab.data.batches import Batches, Split, eval_batches
from gpt2lab.data.download import Progress, data_dir
from gpt2lab.data.shards import read_shard, write_shard
from gpt2lab.data.sources import Source, read_source, source_tokenizer, unigram_entropy
from gpt2lab.data.tokenizers import Tokenizer, read_tokenizer

__all__ = [
    "Batches",
    "Progress",
    "Source",
    "Split",
    "Tokenizer",
    "data_dir",
    "eval_batches",
    "read_shard",
    "read_source",
    "read_tokenizer",
    "source_tokenizer",
    "unigram_entropy",
    "write_shard",
]
