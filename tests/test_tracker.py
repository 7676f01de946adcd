import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest

from gpt2lab.record.metrics import MetricsWriter, read_metrics
from gpt2lab.record.tracker import start_tracker
from gpt2lab.schema import TrackerConfig, TrackerMode, TrackerName

wandb = pytest.importorskip("wandb")

BLOCK = 32768  # LevelDB log format: blocks of 32 KiB, each record with a header of 7 bytes


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No W&B settings of the machine reach a test, and nothing finds its way to a network."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture(autouse=True, scope="module")
def service_ended():
    yield
    wandb.teardown()


def start(run_dir: Path, warnings: list[str], *, resume: bool = False, **config):
    return start_tracker(
        TrackerConfig(**config),
        run_dir=run_dir,
        name="mini",
        run_config={"seed": 0, "model": {"n_layer": 4}},
        tags=["test"],
        resume=resume,
        warn=warnings.append,
    )


def read_records(path: Path):
    """Yield the protobuf records of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):
            return  # still being written, or cut by a kill
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wait_for_exit(path: Path) -> list:
    """Return the records once the last one is there: W&B's service may still be writing when `finish` returns."""
    deadline = time.monotonic() + 120
    while True:
        records = list(read_records(path))
        if time.monotonic() > deadline or any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)


def read_mirror(run_dir: Path) -> tuple[list[dict], set[str]]:
    """Return the rows that W&B holds in all parts of the run, and the ids of those parts."""
    rows, ids = [], set()
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        for record in wait_for_exit(path):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                step = {"step": record.history.step.num}
                rows.append(step | {key: value for key, value in items.items() if not key.startswith("_")})
    return rows, ids


def measured(path: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if value is not None} for row in read_metrics(path)]


def make_row(step: int) -> dict:
    row = {"step": step, "tokens": step * 512, "train_loss": 5.5 / (step + 1), "lr": 1e-3}
    return row | ({"val_loss": 0.1 + 0.2 * step, "val_accuracy": None} if step % 10 == 0 else {})


def test_every_row_of_metrics_csv_is_in_the_wandb_file(tmp_path, capfd):
    warnings: list[str] = []
    tracker = start(tmp_path, warnings)
    with MetricsWriter(tmp_path / "metrics.csv") as writer:
        for step in range(0, 1500, 3):  # more than one block of the file
            writer.append(make_row(step))
            tracker.log(make_row(step))
    tracker.finish(ok=True)
    rows, ids = read_mirror(tmp_path)
    assert len(rows) == 500 and rows == measured(tmp_path / "metrics.csv")
    assert len(ids) == 1
    assert (tracker.state, warnings) == ("offline", [])
    assert capfd.readouterr() == ("", "")  # no banner into the progress display
    assert wandb.run is None


def test_both_parts_of_a_resumed_run_have_one_id_and_all_rows(tmp_path):
    with MetricsWriter(tmp_path / "metrics.csv") as writer:
        for resume, steps in ((False, range(5)), (True, range(5, 10))):
            tracker = start(tmp_path, [], resume=resume)
            for step in steps:
                writer.append(make_row(step))
                tracker.log(make_row(step))
            tracker.finish(ok=resume)
            # W&B names its folders by the second.
            (folder,) = tmp_path.glob("wandb/offline-run-2*")
            folder.rename(folder.with_name(f"offline-run-{int(resume)}"))
    rows, ids = read_mirror(tmp_path)
    assert rows == measured(tmp_path / "metrics.csv")
    assert ids == {(tmp_path / "wandb" / "run_id").read_text().strip()}


def test_a_service_that_dies_in_mid_run_costs_one_warning(tmp_path):
    """A process of its own, because the service of this one is shared by the other tests."""
    script = textwrap.dedent(f"""
        import os, signal, sys
        from pathlib import Path
        from gpt2lab.record.tracker import start_tracker
        from gpt2lab.schema import TrackerConfig
        run_dir = Path({str(tmp_path)!r})
        def begin():
            return start_tracker(TrackerConfig(), run_dir=run_dir, name="x", run_config={{}}, tags=[], resume=False,
                                 warn=lambda text: print("WARN", text))
        tracker = begin()
        tracker.log({{"step": 0, "train_loss": 1.0}})
        tasks = Path(f"/proc/{{os.getpid()}}/task").iterdir()
        for child in {{int(pid) for task in tasks for pid in (task / "children").read_text().split()}}:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for step in range(1, 4):
            tracker.log({{"step": step, "train_loss": 1.0}})
        tracker.finish(ok=True)
        print(tracker.state)
        import wandb
        print(wandb.run)
        tracker = begin()
        tracker.log({{"step": 0, "train_loss": 1.0}})
        tracker.finish(ok=True)
        print(tracker.state)
    """)
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("the system does not list child processes under /proc")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert [line for line in lines if line.startswith("WARN")] == lines[:1]
    assert lines[0].startswith("WARN W&B log failed (")
    assert lines[1].startswith("off: log failed (") and lines[2] == "None"
    assert lines[3:] == ["offline"]  # the next run of the process has a mirror again
    assert "Traceback" not in result.stderr


class FakeRun:
    """Stands for W&B's run; fails where it is told to."""

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.rows: list[tuple[dict, int]] = []
        self.exit_codes: list[int] = []

    def log(self, values: dict, step: int) -> None:
        if self.fails == "log" and len(self.rows) == 2:
            raise RuntimeError("connection\nlost")
        self.rows.append((values, step))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        if self.fails in ("finish", "log"):
            raise OSError("no space left")


def fake_wandb(monkeypatch, run: FakeRun) -> dict:
    """Put a fake module in the place of wandb; return what init was called with."""
    asked: dict = {}

    def init(**keywords):
        asked.update(keywords)
        if run.fails == "init":
            raise RuntimeError("service did\nnot start")
        return run

    monkeypatch.setitem(
        sys.modules, "wandb", types.SimpleNamespace(init=init, Settings=dict, setup=dict, teardown=dict)
    )
    return asked


def test_a_failing_log_is_not_tried_again(tmp_path, monkeypatch):
    run = FakeRun("log")
    fake_wandb(monkeypatch, run)
    warnings: list[str] = []
    tracker = start(tmp_path, warnings)
    for step in range(5):
        tracker.log({"step": step, "lr": 0.1, "val_loss": None})
    tracker.finish(ok=True)
    assert run.rows == [({"lr": 0.1}, 0), ({"lr": 0.1}, 1)]
    assert len(warnings) == 1 and "connection lost" in warnings[0] and "\n" not in warnings[0]
    assert tracker.state == "off: log failed (connection lost)"
    assert run.exit_codes == [1]


def test_a_failing_init_and_a_failing_finish_are_one_warning_each(tmp_path, monkeypatch):
    for fails in ("init", "finish"):
        fake_wandb(monkeypatch, FakeRun(fails))
        warnings: list[str] = []
        tracker = start(tmp_path, warnings)
        tracker.log({"step": 0, "lr": 0.1})
        tracker.finish(ok=True)
        tracker.finish(ok=True)
        assert len(warnings) == 1 and f"W&B {fails} failed" in warnings[0] and "\n" not in warnings[0]
        assert tracker.state.startswith(f"off: {fails} failed")


def test_the_exit_code_tells_whether_the_run_finished(tmp_path, monkeypatch):
    for ok, code in ((True, 0), (False, 1)):
        run = FakeRun("never")
        fake_wandb(monkeypatch, run)
        start(tmp_path, []).finish(ok=ok)
        assert run.exit_codes == [code]


def test_a_stop_by_the_user_is_not_swallowed(tmp_path, monkeypatch):
    run = FakeRun("never")
    fake_wandb(monkeypatch, run)
    tracker = start(tmp_path, [])

    def interrupted(values, step):
        signal.raise_signal(signal.SIGINT)

    run.log = interrupted
    with pytest.raises(KeyboardInterrupt):
        tracker.log({"step": 0})


def test_online_without_a_key_goes_offline_and_never_asks(tmp_path, monkeypatch):
    asked = fake_wandb(monkeypatch, FakeRun("never"))
    warnings: list[str] = []
    tracker = start(tmp_path, warnings, mode=TrackerMode.online)
    assert tracker.state == asked["mode"] == "offline"
    assert len(warnings) == 1 and "wandb login" in warnings[0]


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_online_with_a_key_is_online(tmp_path, monkeypatch, where):
    asked = fake_wandb(monkeypatch, FakeRun("never"))
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    else:
        (tmp_path / "netrc").write_text("machine 127.0.0.1:9 login user password " + "x" * 40)
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    warnings: list[str] = []
    assert start(tmp_path, warnings, mode=TrackerMode.online).state == asked["mode"] == "online"
    assert warnings == []


def test_online_without_a_network_costs_one_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr("gpt2lab.record.tracker._INIT_TIMEOUT_S", 1)
    warnings: list[str] = []
    tracker = start(tmp_path, warnings, mode=TrackerMode.online)
    tracker.log({"step": 0, "lr": 0.1})
    assert tracker.state.startswith("off: init failed")
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert capfd.readouterr() == ("", "")
    assert wandb.run is None


def test_without_wandb_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings: list[str] = []
    tracker = start(tmp_path, warnings)
    tracker.log({"step": 0})
    tracker.finish(ok=True)
    assert tracker.state.startswith("off: ") and len(warnings) == 1 and "pip install wandb" in warnings[0]


def test_tracker_none_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings: list[str] = []
    tracker = start(tmp_path, warnings, name=TrackerName.none)
    tracker.log({"step": 0})
    tracker.finish(ok=True)
    assert (tracker.state, warnings, list(tmp_path.iterdir())) == ("off: tracker=none", [], [])
