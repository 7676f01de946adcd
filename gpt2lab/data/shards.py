"""Token shards as llm.c writes them: 256 int32 of header, then the tokens as uint16, all little-endian.

The header holds the magic number 20240520, version 1 and the token count. Shards are memory-mapped, so a corpus
may be larger than memory. Source: llm.c `llmc/dataloader.h`.
"""

import os
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gpt2lab.data.download import Progress, file_errors, hash_file
from gpt2lab.errors import DataError

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
SHARD_TOKENS = 100_000_000  # as llm.c's own scripts; the header's int32 count could not hold 2.2e9 anyway


def read_shard(path: Path) -> np.ndarray:
    """Return the tokens of one shard as a memory-mapped uint16 (n_tokens,) array.

    Raises DataError, naming the file, when it is missing, unreadable, empty, not a version 1 shard, or when its
    size differs from its header.
    """
    with file_errors(path, "read", "; expected an llm.c token shard"), path.open("rb") as file:
        head = file.read(HEADER_BYTES)
        n_bytes = os.fstat(file.fileno()).st_size
    if len(head) < HEADER_BYTES:
        raise DataError(
            f"{path}: {n_bytes} bytes are fewer than the {HEADER_BYTES} of a token shard's header; "
            "the file is empty or cut short, write it again"
        )
    magic, version, n_tokens = (int(value) for value in np.frombuffer(head, dtype="<i4")[:3])
    if magic != MAGIC:
        raise DataError(
            f"{path}: magic number {magic}, expected {MAGIC}: this is not an llm.c token shard "
            "(data=text reads plain text)"
        )
    if version != VERSION:
        raise DataError(f"{path}: shard version {version}, expected {VERSION}: write it again with uint16 tokens")
    if n_tokens < 1:
        raise DataError(f"{path}: the header says {n_tokens} tokens, expected at least 1: the shard is empty")
    expected = HEADER_BYTES + 2 * n_tokens
    if n_bytes != expected:
        raise DataError(
            f"{path}: {n_bytes} bytes, expected {expected} for the {n_tokens} tokens of its header; "
            "the file is cut short or damaged, copy or write it again"
        )
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(n_tokens,))


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write `tokens` (n_tokens,), integers from 0 to 65535, as one shard that appears complete or not at all.

    Raises DataError when the file cannot be written.
    """
    assert tokens.ndim == 1 and 0 < tokens.size < 2**31, f"a shard holds 1 ... 2^31 - 1 tokens, got {tokens.shape}"
    assert tokens.dtype == np.uint16 or (tokens.min() >= 0 and tokens.max() < 2**16), "tokens must fit in uint16"
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with file_errors(path, "written", "; free some space or choose another"):
        try:
            with partial.open("wb") as file:
                file.write(header.tobytes())
                file.write(np.ascontiguousarray(tokens, dtype="<u2").data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_shards(folder: Path, chunks: Iterable[np.ndarray], *, shard_tokens: int = SHARD_TOKENS) -> list[Path]:
    """Write a stream of uint16 (n,) token arrays as shards of `shard_tokens` tokens; the last one may be shorter.

    At most one shard and one chunk are in memory. Returns the paths, `00000.bin` first; none for no tokens.
    """
    paths: list[Path] = []
    waiting = np.empty(0, dtype=np.uint16)

    def write_next(tokens: np.ndarray) -> None:
        paths.append(folder / f"{len(paths):05d}.bin")
        write_shard(paths[-1], tokens)

    for chunk in chunks:
        waiting = np.concatenate([waiting, chunk])
        while waiting.size >= shard_tokens:
            write_next(waiting[:shard_tokens])
            waiting = waiting[shard_tokens:]
    if waiting.size:
        write_next(waiting)
    return paths


def find_shards(pattern: str, *, key: str) -> list[Path]:
    """Return the files that `pattern` (a path, or a glob such as `data/*_train_*.bin`) names, sorted by name.

    `key` is the configuration key to name. Raises DataError when nothing matches.
    """
    path = Path(pattern).expanduser()
    if path.exists():  # a literal name wins, even with brackets in it
        return [path]
    found = sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
    if not found:
        raise DataError(f"{key}={pattern}: no such file, and as a glob pattern it matches nothing")
    return found


def hash_shards(paths: dict[str, list[Path]], report_progress: Progress | None = None) -> dict[str, str]:
    """Return the SHA-256 of the files of each split, by split and by path below the folder they share.

    Raises DataError when a file cannot be read.
    """
    files = [(name, path) for name, found in paths.items() for path in found]
    total = sum(path.stat().st_size for _, path in files)
    hashes: dict[str, str] = {}
    done = 0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for (name, path), sha256 in zip(files, pool.map(hash_file, (path for _, path in files)), strict=True):
            shared = os.path.commonpath([p.absolute().parent for p in paths[name]])
            hashes[f"{name}/{path.absolute().relative_to(shared).as_posix()}"] = sha256
            done += path.stat().st_size
            if report_progress:
                report_progress("hashing shards", done, total)
    return hashes
