"""data=shakespeare: tiny Shakespeare (Karpathy, char-rnn), 1.1 MB, downloaded once."""

from dataclasses import replace
from pathlib import Path

from gpt2lab.data.download import Progress, RemoteFile, data_dir
from gpt2lab.data.prepare import prepare_file
from gpt2lab.data.sources.base import Source
from gpt2lab.data.sources.corpus import corpus, fetch, with_local_file
from gpt2lab.schema import DataConfig

FILE = RemoteFile(
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    n_bytes=1_115_394,
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    if config.path is not None:
        return with_local_file(source, Path(config.path).expanduser(), report_progress)
    target = data_dir() / "shakespeare" / "input.txt"
    splits = prepare_file(
        lambda: fetch(FILE, target, report_progress),
        sha256=FILE.sha256,
        tokenizer=source.tokenizer,
        report_progress=report_progress,
    )
    return replace(source, splits=splits, files={target.name: FILE.sha256})


SHAKESPEARE = corpus("shakespeare", _read, keys=["path"])
