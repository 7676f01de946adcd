"""Plain text in memory: UTF-8 files and folders, and the documentation that comes with Python."""

import hashlib
from pathlib import Path

from gpt2lab.data.prepare import decode_utf8
from gpt2lab.errors import DataError


def read_text(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the UTF-8 text at `path` and the SHA-256 of each file it came from, by name.

    A folder gives all files below it, sorted by path and joined by line breaks; hidden ones (names that begin with a
    dot) are left out. Raises DataError, naming the file, for text that is missing, unreadable, empty or not UTF-8.
    """
    if not path.exists():
        raise DataError(f"data.path={path}: there is no such file or folder; expected UTF-8 text")
    files = _visible_files(path) if path.is_dir() else [path]
    texts, hashes = [], {}
    for file in files:
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        decode_utf8(raw, file)
        texts.append(raw)
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        hashes[name] = hashlib.sha256(raw).hexdigest()
    if not any(texts):
        what = "the folder holds no text" if path.is_dir() else "the file is empty"
        raise DataError(f"data.path={path}: {what}; expected UTF-8 text")
    return b"\n".join(texts), hashes


def python_documentation() -> bytes:
    """Return the language reference inside the standard library, about 465,000 characters of English, as UTF-8.

    Its wording differs between Python versions, so whoever uses it should record its hash.
    """
    from pydoc_data.topics import topics  # half a megabyte of source that only this corpus needs

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def _visible_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
