"""Files from the network into the data folder: with progress, resumed after an interruption, checked by SHA-256.

A download is written to `NAME.part` and renamed when size and hash are right, so an existing file is complete. One
process at a time downloads a file; the others wait and then use it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpt2lab.errors import DataError
from gpt2lab.record.disk import file_sha256
from gpt2lab.record.lock import locked

# Called with a description, the bytes done and the total bytes.
Progress = Callable[[str, int, int], None]

BLOCK_BYTES = 1 << 20
ATTEMPTS = 4  # in a row without a new byte
RETRY_WAIT_S = 0.5  # before the second attempt; doubles each time
TIMEOUT_S = 30  # without a byte from the server
DISK_ADVICE = "; free some space, or set GPT2LAB_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file on the network whose content is known."""

    url: str
    n_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def data_dir() -> Path:
    """Return the folder of downloads and tokenised corpora: $GPT2LAB_DATA, or `data` where that is not set."""
    return Path(os.environ.get("GPT2LAB_DATA") or "data").expanduser()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises DataError when it cannot be read."""
    with file_errors(path, "read"):
        return file_sha256(path)


@contextmanager
def file_errors(path: Path, action: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError of the block (missing, permission, disk full) into one DataError line naming `path`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be {action} ({error.strerror}){advice}") from error


def check_file(path: Path, expected: RemoteFile) -> Path:
    """Return `path` when it holds what `expected` says. Raises DataError, naming the file, when it does not."""
    found = hash_file(path)
    if found != expected.sha256:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes with sha256 {found}, expected {expected.n_bytes} bytes with sha256 "
            f"{expected.sha256}; delete the file to get it again from {expected.url}"
        )
    return path


def download(file: RemoteFile, target: Path, *, report_progress: Progress | None = None) -> Path:
    """Return `target`, downloaded and checked; a file that is already there is only checked.

    An earlier transfer that left `NAME.part` is continued. Raises DataError, naming the URL and the file
    to place by hand, when the network, the server or the disk fails, and when size or hash are wrong.
    """
    partial = target.with_name(target.name + ".part")
    by_hand = f"place it by hand as {target} ({file.n_bytes} bytes, sha256 {file.sha256[:16]}...)"
    if target.exists():
        return check_file(target, file)
    with file_errors(target, "written", DISK_ADVICE):
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target):
            if target.exists():  # another process was faster
                return target
            _fetch(file, partial, by_hand, report_progress)
            found = hash_file(partial)
            if found != file.sha256:
                partial.unlink()
                raise DataError(
                    f"{file.url}: got {found} as its sha256, expected {file.sha256}; the download was thrown away, "
                    f"try again or {by_hand}"
                )
            partial.replace(target)
            return target


def exclusive(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of `path` (`.NAME.lock` beside it) against other processes; wait while another holds it."""
    return locked(path.with_name(f".{path.name}.lock"))


def _fetch(file: RemoteFile, partial: Path, by_hand: str, report_progress: Progress | None) -> None:
    """Bring `partial` to its full size, trying again as long as bytes arrive."""
    import requests  # takes 80 ms, which only downloads need

    failures = 0
    while (before := _size(partial)) != file.n_bytes:
        try:
            _transfer(file, partial, by_hand, report_progress)
            reason = "the server sent too little"
        except requests.RequestException as error:
            reason = _short(error)
        after = _size(partial)
        if after == file.n_bytes:
            return
        if after > file.n_bytes:
            partial.unlink()
            raise DataError(f"{file.url}: more than the expected {file.n_bytes} bytes came; {by_hand}")
        failures = 1 if after > before else failures + 1
        if failures >= ATTEMPTS:
            kept = f"; {after} of {file.n_bytes} bytes are kept and the next try continues there" if after else ""
            raise DataError(f"cannot download {file.url} ({reason}){kept}; try again, or {by_hand}")
        time.sleep(RETRY_WAIT_S * 2 ** (failures - 1))


def _transfer(file: RemoteFile, partial: Path, by_hand: str, report_progress: Progress | None) -> None:
    """Append the bytes of one request to `partial`."""
    import requests

    done = _size(partial)
    if done > file.n_bytes:
        partial.unlink()
        done = 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:  # the partial file is longer than the server's: it is of another version
            partial.unlink(missing_ok=True)
            return
        if 400 <= response.status_code < 500 and response.status_code not in (408, 429):
            raise DataError(f"cannot download {file.url} (HTTP status {response.status_code}); {by_hand}")
        response.raise_for_status()
        part = response.headers.get("Content-Range", "") if response.status_code == 206 else None
        offered = response.headers.get("Content-Length", "") if part is None else part.rpartition("/")[2]
        if offered.isdecimal() and int(offered) != file.n_bytes:  # the login page of a network, or another version
            raise DataError(f"{file.url}: the server offers {offered} bytes, expected {file.n_bytes}; {by_hand}")
        continued = part is not None and part.startswith(f"bytes {done}-")
        with partial.open("ab" if continued else "wb") as output:
            done = done if continued else 0
            for block in response.iter_content(BLOCK_BYTES):
                output.write(block)
                done += len(block)
                if report_progress:
                    report_progress(f"downloading {file.name}", done, file.n_bytes)
                if done > file.n_bytes:
                    return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _short(error: Exception) -> str:
    """Return what went wrong in a few words; the messages of requests carry object addresses and stacks of causes."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    words = {
        requests.Timeout: f"no answer within {TIMEOUT_S} s",
        requests.exceptions.SSLError: "the certificate is not accepted",
        requests.exceptions.ChunkedEncodingError: "the connection broke",
    }
    return next((reason for kind, reason in words.items() if isinstance(error, kind)), "no connection")
