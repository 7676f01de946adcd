import gzip
import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record.source_archive import find_source_root, source_hash, write_source_archive

SOURCE = {
    "gpt2lab/__init__.py": "",
    "gpt2lab/model/params.py": "x = 1\n",
    "conf/config.yaml": "name: a\n",
    "cuda/gelu.cu": "// gelu\n",
    "pyproject.toml": "[project]\n",
    "constraints.txt": "numpy==2.0\n",
}
NOT_SOURCE = {
    "gpt2lab/__pycache__/x.pyc": "",
    "gpt2lab/model/old.pyc": "",
    "gpt2lab/.cache/x": "",
    "gpt2lab/.DS_Store": "",
    "experiments/00001-a/README.md": "",
    "tests/test_x.py": "",
}


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def read_archive(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar.getmembers()}


@pytest.fixture
def checkout(tmp_path):
    return write_files(tmp_path / "checkout", SOURCE | NOT_SOURCE | {"Makefile": "run:\n", "LICENSE": "MIT\n"})


def test_everything_that_runs_is_in_the_archive_and_nothing_else(checkout, tmp_path):
    write_source_archive(tmp_path / "source.tar.gz", checkout)
    files = read_archive(tmp_path / "source.tar.gz")
    assert files == SOURCE | {"Makefile": "run:\n", "LICENSE": "MIT\n"}
    assert list(files) == sorted(files)


def test_the_same_files_give_the_same_bytes(checkout, tmp_path):
    first, second = tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"
    write_source_archive(first, checkout)
    copy = write_files(tmp_path / "elsewhere", dict(reversed([*read_archive(first).items()])))
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
        file.chmod(0o700 if file.is_dir() else 0o600)
    write_source_archive(second, copy)
    assert first.read_bytes() == second.read_bytes()


def test_the_hash_is_that_of_the_unpacked_archive(checkout, tmp_path):
    path = tmp_path / "source.tar.gz"
    returned = write_source_archive(path, checkout)
    assert returned == source_hash(checkout) == hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()


def test_one_changed_byte_or_name_changes_the_hash(checkout):
    hashes = {source_hash(checkout)}
    (checkout / "gpt2lab/model/params.py").write_text("x = 2\n")
    hashes.add(source_hash(checkout))
    (checkout / "gpt2lab/model/params.py").rename(checkout / "gpt2lab/model/param.py")
    hashes.add(source_hash(checkout))
    (checkout / "gpt2lab/new_and_untracked.py").write_text("")
    hashes.add(source_hash(checkout))
    assert len(hashes) == 4


def test_an_installed_wheel_gives_the_archive_of_its_checkout(tmp_path):
    checkout = write_files(tmp_path / "checkout", SOURCE)
    wheel = {name if name.startswith("gpt2lab/") else f"gpt2lab/{name}": text for name, text in SOURCE.items()}
    others = {"cuda/bindings.py": "not ours", "conf/theirs.yaml": "", "README.md": "", "numpy/__init__.py": ""}
    site_packages = write_files(tmp_path / "site-packages", wheel | others)
    write_source_archive(tmp_path / "a.tar.gz", checkout)
    write_source_archive(tmp_path / "b.tar.gz", site_packages)
    assert read_archive(tmp_path / "b.tar.gz") == SOURCE
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_the_archive_of_this_very_source_holds_the_running_file(tmp_path):
    write_source_archive(tmp_path / "source.tar.gz", find_source_root())
    files = read_archive(tmp_path / "source.tar.gz")
    here = Path(find_source_root() / "gpt2lab/record/source_archive.py").read_text()
    assert files["gpt2lab/record/source_archive.py"] == here
    assert "pyproject.toml" in files


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="there is no gpt2lab package in it"):
        source_hash(tmp_path)
