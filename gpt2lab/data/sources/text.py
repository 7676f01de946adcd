"""data=text: UTF-8 files and folders of the user."""

import hashlib
from pathlib import Path

from gpt2lab.data.download import Progress, file_errors
from gpt2lab.data.prepare import decode_utf8
from gpt2lab.data.sources.base import Source
from gpt2lab.data.sources.corpus import corpus, with_text
from gpt2lab.errors import ConfigError, DataError
from gpt2lab.schema import DataConfig


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    if config.path is None:
        raise ConfigError("data.path is not set: data=text needs it; name a UTF-8 file or a folder of such files")
    return with_text(source, *read_text(Path(config.path).expanduser()))


def read_text(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the UTF-8 text at `path` and the SHA-256 of each file it came from, by name.

    A folder gives all files below it, sorted by path and joined by line breaks; hidden ones (names that begin with a
    dot) are left out. Raises DataError, naming the file, for text that is missing, unreadable, empty or not UTF-8.
    """
    if not path.exists():
        raise DataError(f"data.path={path}: there is no such file or folder; expected UTF-8 text")
    files = [path]
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    texts, hashes = [], {}
    for file in files:
        with file_errors(file, "read"):
            raw = file.read_bytes()
        decode_utf8(raw, file)
        texts.append(raw)
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        hashes[name] = hashlib.sha256(raw).hexdigest()
    if not any(texts):
        what = "the folder holds no text" if path.is_dir() else "the file is empty"
        raise DataError(f"data.path={path}: {what}; expected UTF-8 text")
    return b"\n".join(texts), hashes


TEXT = corpus("text", _read, keys=["path"])
