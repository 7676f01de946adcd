import os
import signal

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import file_sha256, json_bytes, read_json, write_atomic

resource = pytest.importorskip("resource")


def test_content_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "status.json"
    for content in (b"old", b"new"):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_refuses_keeps_the_old_content(tmp_path):
    path = tmp_path / "status.json"
    write_atomic(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ArchiveError, match=r"status\.json: cannot write: ") as caught:
            write_atomic(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_stop_before_the_rename_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_atomic(path, b"old")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(ArchiveError, match=r"a\.json: cannot write: no such file or directory"):
        write_atomic(tmp_path / "nowhere" / "a.json", b"")


def test_an_object_comes_back_and_keeps_its_order(tmp_path):
    value = {"z": 1, "a": [0.1, None, "ä"]}
    write_atomic(tmp_path / "a.json", json_bytes(value))
    assert read_json(tmp_path / "a.json") == value and list(read_json(tmp_path / "a.json")) == ["z", "a"]


@pytest.mark.parametrize(("content", "said"), [(b"{", "not JSON"), (b"[]", "JSON object"), (b"\xff{}", "not JSON")])
def test_a_damaged_object_is_named(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArchiveError, match=rf"a\.json: damaged, .*{said}"):
        read_json(tmp_path / "a.json")


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
