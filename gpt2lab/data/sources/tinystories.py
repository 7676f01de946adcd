"""data=tinystories: TinyStories V2 (Eldan & Li, 2023), 2.2 GB, downloaded and tokenised once."""

from dataclasses import replace
from pathlib import Path

from gpt2lab.data.download import Progress, RemoteFile, data_dir, hash_file
from gpt2lab.data.prepare import is_prepared, prepare_split
from gpt2lab.data.sources.base import Source
from gpt2lab.data.sources.corpus import corpus, fetch, with_local_file
from gpt2lab.data.tokenizers import END_OF_TEXT
from gpt2lab.errors import DataError
from gpt2lab.schema import DataConfig

_URL = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/"
FILES = {
    "train": RemoteFile(
        url=_URL + "TinyStoriesV2-GPT4-train.txt",
        n_bytes=2_227_753_162,
        sha256="6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
    ),
    "val": RemoteFile(
        url=_URL + "TinyStoriesV2-GPT4-valid.txt",
        n_bytes=22_502_601,
        sha256="6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
    ),
}


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    folder = data_dir() / "tinystories"
    if config.path is not None:
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            return with_local_file(source, folder, report_progress)
    splits, hashes = {}, {}
    for split, remote in FILES.items():
        path, sha256 = folder / remote.name, remote.sha256
        if config.path is not None:
            if not path.exists():
                names = " and ".join(file.name for file in FILES.values())
                raise DataError(f"data.path={folder}: {path.name} is not in it; expected {names}")
            sha256 = hash_file(path)
        key = f"{sha256[:16]}-{source.tokenizer.name}"
        if config.path is None and not is_prepared(key):
            fetch(remote, path, report_progress)
        splits[split] = prepare_split(path, key=key, tokenizer=source.tokenizer, report_progress=report_progress)
        hashes[path.name] = sha256
    return replace(source, splits=splits, files=hashes)


TINYSTORIES = corpus("tinystories", _read, keys=["path"], prompt=END_OF_TEXT + "\n")
