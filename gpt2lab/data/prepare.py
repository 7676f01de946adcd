"""Large text files to token shards, once, in the data folder.

A file is read in blocks of 16 MiB that are cut only where tokenising the parts gives the tokens of the whole: after
`<|endoftext|>`, or after a line break between two visible ASCII characters. The shards live in
`<data folder>/prepared/<key>/`, where the key names the text and the tokenizer; the folder appears complete or not
at all, so two processes may prepare the same corpus at once.
"""

import json
import mmap
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpt2lab.data.batches import Split
from gpt2lab.data.download import DISK_ADVICE, Progress, data_dir, exclusive, file_errors
from gpt2lab.data.shards import read_shard, write_shards
from gpt2lab.data.tokenizers import END_OF_TEXT, Tokenizer
from gpt2lab.errors import DataError

TRAIN_SHARE = 0.9  # of a text without a validation part; as nanoGPT splits tiny Shakespeare
CHUNK_BYTES = 16 << 20
SUMMARY = "prepared.json"
_END_OF_TEXT = END_OF_TEXT.encode()
_LINES = re.compile(rb".*[^\s\x80-\xff]\n(?=[^\s\x80-\xff])", re.DOTALL)  # up to the last such line break


def prepared_folder(key: str) -> Path:
    """Return where the shards of `key` lie, or would lie."""
    return data_dir() / "prepared" / key


def is_prepared(key: str) -> bool:
    """Return whether the corpus part `key` has been tokenised before."""
    return (prepared_folder(key) / SUMMARY).exists()


def read_prepared(key: str) -> Split:
    """Return the split that `prepare_split` wrote. Raises DataError when its files are damaged."""
    folder = prepared_folder(key)
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        names, n_bytes = list(summary["shards"]), int(summary["n_bytes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / SUMMARY}: cannot be read; delete {folder} and it is created again") from error
    return Split(shards=tuple(read_shard(folder / name) for name in names), n_bytes=n_bytes)


def prepare_split(
    path: Path,
    *,
    key: str,
    tokenizer: Tokenizer,
    start: int = 0,
    stop: int | None = None,
    report_progress: Progress | None = None,
) -> Split:
    """Tokenise bytes `start` ... `stop` of a UTF-8 file into shards, unless that was done before.

    `key` must name everything that the tokens depend on; shards that exist under it are used. Raises DataError for
    text that is not UTF-8 (with the byte position) or empty, and when the shards cannot be written.
    """
    folder = prepared_folder(key)
    with file_errors(folder, "written", DISK_ADVICE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder):
            if not is_prepared(key):
                _write_split(folder, path, tokenizer, start, stop, report_progress)
    return read_prepared(key)


def prepare_file(
    find: Callable[[], Path], *, sha256: str, tokenizer: Tokenizer, report_progress: Progress | None = None
) -> dict[str, Split]:
    """Return train and val of one text file, its last tenth for validation.

    `sha256` is the file's hash; `find` is asked for the file only if its tokens are not in the data folder yet.
    Raises DataError for an empty file and for all that `prepare_split` refuses.
    """
    keys = {name: f"{sha256[:16]}-{tokenizer.name}-{TRAIN_SHARE:g}-{name}" for name in ("train", "val")}
    if all(is_prepared(key) for key in keys.values()):
        return {name: read_prepared(key) for name, key in keys.items()}
    path = find()
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise DataError(f"{path}: is empty; expected UTF-8 text")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        cut = split_position(text)
    return {
        name: prepare_split(
            path, key=keys[name], tokenizer=tokenizer, start=start, stop=stop, report_progress=report_progress
        )
        for name, (start, stop) in {"train": (0, cut), "val": (cut, n_bytes)}.items()
    }


def split_position(text: bytes | mmap.mmap) -> int:
    """Return the byte at which the last tenth of a UTF-8 text begins, moved on to the start of a character."""
    position = int(TRAIN_SHARE * len(text))
    while position < len(text) and text[position] & 0xC0 == 0x80:
        position += 1
    return position


def read_chunks(path: Path, start: int = 0, stop: int | None = None, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield bytes `start` ... `stop` of a file in chunks whose tokens, joined, are those of the whole text.

    Chunks are about `chunk_bytes` long, longer where the text has no place to cut. Raises DataError when the file
    cannot be read.
    """
    with file_errors(path, "read"), path.open("rb") as file:
        file.seek(start)
        left = path.stat().st_size - start if stop is None else stop - start
        kept = b""
        while left > 0 and (block := file.read(min(chunk_bytes, left))):
            left -= len(block)
            kept += block
            cut = _last_cut(kept)
            if cut:
                yield kept[:cut]
                kept = kept[cut:]
        if kept:
            yield kept


def decode_utf8(raw: bytes, path: Path, offset: int = 0) -> str:
    """Return the text of `raw`, which begins at byte `offset` of `path`. Raises DataError where it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {offset + error.start} (0x{raw[error.start]:02x}) is not valid UTF-8; expected UTF-8 text, "
            "convert the file or leave it out"
        ) from error


def _write_split(
    folder: Path, path: Path, tokenizer: Tokenizer, start: int, stop: int | None, report_progress: Progress | None
) -> None:
    """Write the shards and their summary beside `folder`, then give them its name."""
    total = (path.stat().st_size if stop is None else stop) - start
    done = 0

    def tokens() -> Iterator[np.ndarray]:
        nonlocal done
        for chunk in read_chunks(path, start, stop):
            yield tokenizer.encode(decode_utf8(chunk, path, start + done))
            done += len(chunk)
            if report_progress:
                report_progress(f"tokenising {path.name}", done, total)

    staging = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    staging.mkdir()
    try:
        shards = write_shards(staging, tokens())
        if not shards:
            raise DataError(f"{path}: is empty; expected UTF-8 text")
        summary = {"shards": [shard.name for shard in shards], "n_bytes": done, "tokenizer": tokenizer.name}
        (staging / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # a folder without a summary is incomplete
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _last_cut(text: bytes) -> int:
    """Return the last place where `text` may be cut without changing its tokens; 0 if there is none.

    Pieces of GPT-2's pattern never reach across `<|endoftext|>`, and a single line break between two visible
    characters is a piece of its own; next to other blanks it might join them.
    """
    document = text.rfind(_END_OF_TEXT)
    if document >= 0:
        return document + len(_END_OF_TEXT)
    line = _LINES.match(text)
    return line.end() if line else 0
