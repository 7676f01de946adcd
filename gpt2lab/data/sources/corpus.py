"""What the sources of plain text share: their description, and the splits of a text or of a text file."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gpt2lab.data.batches import Split
from gpt2lab.data.download import Progress, RemoteFile, download, hash_file
from gpt2lab.data.prepare import TRAIN_SHARE, prepare_file, split_position
from gpt2lab.data.sources.base import Read, Source, SourceKind
from gpt2lab.data.tokenizers import read_tokenizer
from gpt2lab.errors import DataError
from gpt2lab.schema import DataConfig


def corpus(name: str, read: Read, *, keys: Sequence[str] = (), prompt: str = "\n") -> SourceKind:
    """Return the kind of a text that `data.tokenizer` turns into tokens; `keys` are those it uses besides that one."""
    return SourceKind(
        name=name, keys=frozenset({"tokenizer", *keys}), describe=partial(_describe, name, prompt), read=read
    )


def _describe(name: str, prompt: str, config: DataConfig, vocab_size: int | None) -> Source:
    tokenizer = read_tokenizer(config.tokenizer)
    return Source(name=name, tokenizer=tokenizer, vocab_size=tokenizer.vocab_size, prompt=prompt)


def with_text(source: Source, text: bytes, files: dict[str, str]) -> Source:
    """Return `source` with the tokens of a UTF-8 text, its last tenth for validation."""
    cut = split_position(text)
    splits = {
        split: Split(shards=(source.tokenizer.encode(part.decode("utf-8")),), n_bytes=len(part))
        for split, part in (("train", text[:cut]), ("val", text[cut:]))
    }
    return replace(source, splits=splits, files=files, detail={"train_share": TRAIN_SHARE})


def with_local_file(source: Source, path: Path, report_progress: Progress | None) -> Source:
    """Return `source` with the tokens of a text file of the user. Its hash is recorded; any text is accepted."""
    if not path.is_file():
        raise DataError(f"data.path={path}: there is no such file; expected a local copy of the {source.name} text")
    sha256 = hash_file(path)
    splits = prepare_file(lambda: path, sha256=sha256, tokenizer=source.tokenizer, report_progress=report_progress)
    return replace(source, splits=splits, files={path.name: sha256}, detail={"train_share": TRAIN_SHARE})


def fetch(file: RemoteFile, target: Path, report_progress: Progress | None) -> Path:
    """Return `target`, downloaded if necessary. Raises DataError that names data.path as another way."""
    try:
        return download(file, target, report_progress=report_progress)
    except DataError as error:
        raise DataError(f"{error}, or set data.path to a local copy") from error
