"""Data sources: what each value of `data.source` gives, as one description that the rest of a run reads.

A source is a function from the data configuration to a `Source`, registered in `SOURCES`.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gpt2lab.data.batches import Split
from gpt2lab.data.download import Progress, RemoteFile, data_dir, download, hash_file
from gpt2lab.data.prepare import TRAIN_SHARE, is_prepared, prepare_file, prepare_split, split_position
from gpt2lab.data.shards import find_shards, hash_shards, read_shard
from gpt2lab.data.synthetic import Rows, formal_rows, modular_rows
from gpt2lab.data.text import python_documentation, read_text
from gpt2lab.data.tokenizers import END_OF_TEXT, SymbolTokenizer, Tokenizer, read_tokenizer
from gpt2lab.errors import ConfigError, DataError
from gpt2lab.schema import DataConfig, DataSource, TokenizerName

CHECKED_TOKENS = 1_000_000  # of each shard, when a source is opened; training checks the ids of every batch

SHAKESPEARE = RemoteFile(
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    n_bytes=1_115_394,
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
_TINYSTORIES_URL = (
    "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/"
)
TINYSTORIES = {
    "train": RemoteFile(
        url=_TINYSTORIES_URL + "TinyStoriesV2-GPT4-train.txt",
        n_bytes=2_227_753_162,
        sha256="6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
    ),
    "val": RemoteFile(
        url=_TINYSTORIES_URL + "TinyStoriesV2-GPT4-valid.txt",
        n_bytes=22_502_601,
        sha256="6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Tokens to train and evaluate on, and all that is known about them."""

    name: str  # as in data.source
    vocab_size: int  # V
    splits: dict[str, Split]  # train, val, and test where there is one
    tokenizer: Tokenizer
    row_len: int | None = None  # T when the tokens are rows of T; None for a stream
    answer_span: tuple[int, int] | None = None  # first and last target position of the answer, inclusive
    best_loss: np.ndarray | None = None  # (T,) lowest expected loss per target position, nats; None = unknown
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of each file or corpus, by name
    prompt: str = "\n"  # what samples begin with unless sample.prompt says otherwise
    detail: dict[str, object] = field(default_factory=dict)  # what a report should say, plain values


def read_source(
    config: DataConfig, *, vocab_size: int | None = None, report_progress: Progress | None = None
) -> Source:
    """Return the source that `config` names; downloads and tokenises what is not there yet.

    `vocab_size` (model.vocab_size) replaces the source's own vocabulary size. Raises ConfigError for keys that are
    missing or do not fit, DataError for data that is missing, damaged, not to be had, or has ids outside V.
    """
    source = SOURCES[config.source](config, vocab_size, report_progress)
    source = replace(source, vocab_size=vocab_size or source.vocab_size)
    for name, split in source.splits.items():
        for shard in split.shards:
            _check_ids(f"data.source={source.name}, {name} split", shard, source.vocab_size)
    return source


def source_tokenizer(config: DataConfig, *, vocab_size: int | None = None) -> Tokenizer:
    """Return the tokenizer of the source that `config` names, without reading its corpus."""
    if config.source is DataSource.modular:
        return modular_rows(config).tokenizer
    if config.source is DataSource.formal:
        return formal_rows(config).tokenizer
    tokenizer = read_tokenizer(config.tokenizer)
    if config.source is DataSource.shards and vocab_size is not None and vocab_size < tokenizer.vocab_size:
        # A smaller vocabulary says that another tokenizer made these ids: show them as numbers.
        return SymbolTokenizer("ids", tuple(str(i) for i in range(vocab_size)))
    return tokenizer


def unigram_entropy(split: Split, vocab_size: int) -> float:
    """Return the entropy of the split's own token frequencies, in nats per token.

    It is the loss of the best predictor that ignores the context. Raises DataError for an id outside the vocabulary.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for part in _parts(split.shards):
        if part.size and int(part.max()) >= vocab_size:
            raise DataError(
                f"the validation split: token {int(part.max())} is outside the vocabulary of {vocab_size}; "
                "set data.tokenizer or model.vocab_size to what the tokens were made with"
            )
        counts += np.bincount(part, minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _pydocs(config: DataConfig, vocab_size: int | None, report_progress: Progress | None) -> Source:
    text = python_documentation()
    files = {"pydoc_data.topics": hashlib.sha256(text).hexdigest()}
    return _text_source("pydocs", text, files, read_tokenizer(config.tokenizer))


def _text(config: DataConfig, vocab_size: int | None, report_progress: Progress | None) -> Source:
    if config.path is None:
        raise ConfigError("data.path is not set: data=text needs it; name a UTF-8 file or a folder of such files")
    text, files = read_text(Path(config.path).expanduser())
    return _text_source("text", text, files, read_tokenizer(config.tokenizer))


def _shakespeare(config: DataConfig, vocab_size: int | None, report_progress: Progress | None) -> Source:
    tokenizer = read_tokenizer(config.tokenizer)
    if config.path is not None:
        return _local_file("shakespeare", config.path, tokenizer, report_progress)
    target = data_dir() / "shakespeare" / "input.txt"

    def find() -> Path:
        return _download(SHAKESPEARE, target, report_progress)

    splits = prepare_file(find, sha256=SHAKESPEARE.sha256, tokenizer=tokenizer, report_progress=report_progress)
    return _stream_source("shakespeare", splits, {target.name: SHAKESPEARE.sha256}, tokenizer)


def _tinystories(config: DataConfig, vocab_size: int | None, report_progress: Progress | None) -> Source:
    tokenizer = read_tokenizer(config.tokenizer)
    names = {split: file.url.rsplit("/", 1)[1] for split, file in TINYSTORIES.items()}
    local = None if config.path is None else Path(config.path).expanduser()
    if local is not None and not local.is_dir():
        return replace(_local_file("tinystories", str(local), tokenizer, report_progress), prompt=END_OF_TEXT + "\n")
    splits, files = {}, {}
    for split, remote in TINYSTORIES.items():
        if local is None:
            path = data_dir() / "tinystories" / names[split]
            sha256 = remote.sha256
        else:
            path = local / names[split]
            if not path.exists():
                raise DataError(f"data.path={local}: {path.name} is not in it; expected {' and '.join(names.values())}")
            sha256 = hash_file(path)
        key = f"{sha256[:16]}-{tokenizer.name}"
        if local is None and not is_prepared(key):
            _download(remote, path, report_progress)
        splits[split] = prepare_split(path, key=key, tokenizer=tokenizer, report_progress=report_progress)
        files[path.name] = sha256
    return _stream_source("tinystories", splits, files, tokenizer, prompt=END_OF_TEXT + "\n")


def _shards(config: DataConfig, vocab_size: int | None, report_progress: Progress | None) -> Source:
    patterns = {"train": config.train, "val": config.val, "test": config.test}
    for name in ("train", "val"):
        if patterns[name] is None:
            raise ConfigError(
                f"data.{name} is not set: data=shards needs data.train and data.val; name a token file or a pattern "
                f"such as data.{name}='data/*_{name}_*.bin'"
            )
    tokenizer = source_tokenizer(config, vocab_size=vocab_size)
    paths = {name: find_shards(p, key=f"data.{name}") for name, p in patterns.items() if p is not None}
    splits = {}
    for name, found in paths.items():
        shards = tuple(read_shard(path) for path in found)
        for path, shard in zip(found, shards, strict=True):
            _check_ids(str(path), shard, vocab_size or tokenizer.vocab_size)
        splits[name] = Split(shards=shards, n_bytes=_count_bytes(name, shards, tokenizer))
    prompts = {"bytes": "\n", "gpt2": END_OF_TEXT, "ids": "0"}
    return Source(
        name="shards",
        vocab_size=tokenizer.vocab_size,
        splits=splits,
        tokenizer=tokenizer,
        files=hash_shards(paths, report_progress),
        prompt=prompts[tokenizer.name],
        detail={f"{name} shards": len(found) for name, found in paths.items()},
    )


def _modular(config: DataConfig, vocab_size: int | None, report_progress: Progress | None) -> Source:
    return _rows_source("modular", modular_rows(config), config)


def _formal(config: DataConfig, vocab_size: int | None, report_progress: Progress | None) -> Source:
    return _rows_source("formal", formal_rows(config), config)


SOURCES: dict[DataSource, Callable[[DataConfig, int | None, Progress | None], Source]] = {
    DataSource.pydocs: _pydocs,
    DataSource.shakespeare: _shakespeare,
    DataSource.tinystories: _tinystories,
    DataSource.text: _text,
    DataSource.shards: _shards,
    DataSource.modular: _modular,
    DataSource.formal: _formal,
}


def _text_source(name: str, text: bytes, files: dict[str, str], tokenizer: Tokenizer) -> Source:
    """Return a text in memory as a source, its last tenth for validation."""
    cut = split_position(text)
    splits = {
        split: Split(shards=(tokenizer.encode(part.decode("utf-8")),), n_bytes=len(part))
        for split, part in (("train", text[:cut]), ("val", text[cut:]))
    }
    return _stream_source(name, splits, files, tokenizer, detail={"train_share": TRAIN_SHARE})


def _download(file: RemoteFile, target: Path, report_progress: Progress | None) -> Path:
    try:
        return download(file, target, report_progress=report_progress)
    except DataError as error:
        raise DataError(f"{error}, or set data.path to a local copy") from error


def _local_file(name: str, path: str, tokenizer: Tokenizer, report_progress: Progress | None) -> Source:
    """Return a text file that the user has as a source; its hash is recorded, whatever it is."""
    local = Path(path).expanduser()
    if not local.is_file():
        raise DataError(f"data.path={path}: there is no such file; expected a local copy of the {name} text")
    sha256 = hash_file(local)
    splits = prepare_file(lambda: local, sha256=sha256, tokenizer=tokenizer, report_progress=report_progress)
    return _stream_source(name, splits, {local.name: sha256}, tokenizer, detail={"train_share": TRAIN_SHARE})


def _stream_source(
    name: str,
    splits: dict[str, Split],
    files: dict[str, str],
    tokenizer: Tokenizer,
    *,
    prompt: str = "\n",
    detail: dict[str, object] | None = None,
) -> Source:
    return Source(
        name=name,
        vocab_size=tokenizer.vocab_size,
        splits=splits,
        tokenizer=tokenizer,
        files=files,
        prompt=prompt,
        detail=detail or {},
    )


def _rows_source(name: str, rows: Rows, config: DataConfig) -> Source:
    """Return synthetic rows as a source; the hash is that of all rows, in the order of the split."""
    splits = {
        split: Split(shards=(array.reshape(-1),), n_bytes=None)
        for split, array in (("train", rows.train), ("val", rows.val))
    }
    digest = hashlib.sha256(rows.train.astype("<u2").tobytes() + rows.val.astype("<u2").tobytes())
    return Source(
        name=name,
        vocab_size=rows.tokenizer.vocab_size,
        splits=splits,
        tokenizer=rows.tokenizer,
        row_len=rows.train.shape[1],
        answer_span=rows.answer_span,
        best_loss=rows.best_loss,
        files={name: digest.hexdigest()},
        prompt="BOS",
        detail={
            "rule": rows.rule,
            "train_examples": len(rows.train),
            "val_examples": len(rows.val),
            "train_fraction": config.train_fraction,
            "split_seed": config.split_seed,
        },
    )


def _check_ids(where: str, tokens: np.ndarray, vocab_size: int) -> None:
    """Raise DataError when one of the first tokens (n,) is outside the vocabulary."""
    head = tokens[:CHECKED_TOKENS]
    if head.size and int(head.max()) >= vocab_size:
        position = int(np.argmax(head >= vocab_size))
        raise DataError(
            f"{where}: token {int(head[position])} at position {position} is outside the vocabulary of {vocab_size}; "
            f"set data.tokenizer or model.vocab_size to what the tokens were made with"
        )


def _count_bytes(split: str, shards: tuple[np.ndarray, ...], tokenizer: Tokenizer) -> int | None:
    """Return the UTF-8 bytes behind token files, where tokens tell; a large training set is not read for it."""
    if tokenizer.name == TokenizerName.bytes.name:
        return sum(shard.size for shard in shards)
    if tokenizer.name == "ids" or split == "train":
        return None
    return sum(tokenizer.count_bytes(part) for part in _parts(shards))


def _parts(shards: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Yield the tokens in parts small enough for memory, even after widening to int64."""
    for shard in shards:
        for start in range(0, shard.size, CHECKED_TOKENS):
            yield np.asarray(shard[start : start + CHECKED_TOKENS])
