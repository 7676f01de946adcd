"""Tokens in, batches out: sources, token shards, tokenizers and the order of training."""

from gpt2lab.data.batches import Batches, Split, eval_batches
from gpt2lab.data.download import Progress, data_dir
from gpt2lab.data.ids import unigram_entropy
from gpt2lab.data.sources import SOURCES, Source, SourceKind, check_source, describe_source, read_source
from gpt2lab.data.tokenizers import Tokenizer, tokenizer_of_size
