import math
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record.columns import COLUMNS, Column
from gpt2lab.record.metrics import MetricsWriter, drop_rows_after, read_metrics

COLUMN_NAMES = tuple(entry.name for entry in COLUMNS)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """metrics.csv with steps 0, 10, 20."""
    path = tmp_path / "metrics.csv"
    with MetricsWriter(path) as writer:
        for step in (0, 10, 20):
            writer.append({"step": step, "tokens": step * 512, "train_loss": 5.5 - 0.1 * step})
    return path


def test_the_columns_are_named_once_and_each_is_described():
    assert len(set(COLUMN_NAMES)) == len(COLUMNS)
    assert all(entry.description and entry.label for entry in COLUMNS)
    assert COLUMN_NAMES[:2] == ("step", "tokens")


def test_values_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    values = [*rng.standard_normal(50), 1e-300, 0.1 + 0.2, math.inf, -0.0, np.float32(0.1)]
    path = tmp_path / "metrics.csv"
    with MetricsWriter(path) as writer:
        for step, value in enumerate(values):
            writer.append({"step": step, "val_loss": value})
    rows = read_metrics(path)
    assert [row["val_loss"] for row in rows] == [float(value) for value in values]
    assert math.copysign(1, rows[53]["val_loss"]) == -1
    assert all(type(row["val_loss"]) is float and type(row["step"]) is int for row in rows)


def test_nan_is_kept_apart_from_not_measured(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(path) as writer:
        writer.append({"step": 0, "val_loss": math.nan, "lr": None})
    (row,) = read_metrics(path)
    assert math.isnan(row["val_loss"])
    assert row["lr"] is None and row["test_loss"] is None
    assert tuple(row) == COLUMN_NAMES


def test_every_row_is_on_disk_before_append_returns(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(path) as writer:
        for step in range(3):
            writer.append({"step": step, "tokens": 7})
            assert [row["step"] for row in read_metrics(path)] == list(range(step + 1))


def test_an_unknown_column_is_our_own_mistake(tmp_path):
    with MetricsWriter(tmp_path / "metrics.csv") as writer, pytest.raises(AssertionError, match="trl"):
        writer.append({"step": 1, "trl": 0.5})


def test_a_torn_last_line_is_dropped(written):
    content = written.read_bytes()
    for cut in range(1, len(content.splitlines(keepends=True)[-1])):
        written.write_bytes(content[:-cut])
        assert [row["step"] for row in read_metrics(written)] == [0, 10], cut


def test_writing_goes_on_after_the_last_whole_row(written):
    written.write_bytes(written.read_bytes()[:-3])
    with MetricsWriter(written) as writer:
        writer.append({"step": 20, "train_loss": 1.25})
    assert [row["step"] for row in read_metrics(written)] == [0, 10, 20]
    assert read_metrics(written)[-1]["train_loss"] == 1.25


def test_a_header_torn_by_a_kill_is_written_anew(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,tok")
    assert read_metrics(path) == []
    with MetricsWriter(path) as writer:
        writer.append({"step": 0})
    assert [row["step"] for row in read_metrics(path)] == [0]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (b"10,5120", b"10,51x0", 3),
        (b"10,5120", b"1_0,5120", 3),
        (b"10,5120,", b"10,5120,5_", 3),
        (b"10,5120", b"10,9223372036854775808", 3),
        (b"10,5120", b"10," + b"9" * 400, 3),
        (b"10,5120", b"10,\x0c5120", 3),
        (b"10,5120", b'"10,5120', 3),
        (b"10,5120,", b"10,5120", 3),
        (b"10,5120", b",5120", 3),
        (b"0,0,5.5", b"0,0,5\xff5", 2),
        (b"step,", b"stop,", 1),
    ],
)
def test_a_damaged_row_is_named_by_file_and_line(written, old, new, line):
    content = written.read_bytes()
    assert old in content
    written.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ArchiveError, match=rf"metrics\.csv, line {line}: "):
        read_metrics(written)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArchiveError, match=r"metrics\.csv: cannot read: no such file"):
        read_metrics(tmp_path / "metrics.csv")


def test_columns_that_an_older_version_did_not_write_read_as_not_measured(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,val_loss\n0,5.5\n")
    assert read_metrics(path) == [{**dict.fromkeys(COLUMN_NAMES), "step": 0, "val_loss": 5.5}]


def test_dropping_rows_keeps_the_bytes_of_the_others(written):
    before = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join(before) + b"30,1")
    drop_rows_after(written, 10)
    assert written.read_bytes() == b"".join(before[:3])
    assert list(written.parent.iterdir()) == [written]


def test_dropping_rows_is_all_or_nothing(written, monkeypatch):
    before = written.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        drop_rows_after(written, 0)
    assert written.read_bytes() == before


def test_a_full_disk_is_one_line_and_keeps_the_rows_before(tmp_path):
    """A file-size limit makes the system refuse the write, in the middle of a row, as a full disk does."""
    path = tmp_path / "metrics.csv"
    script = textwrap.dedent(f"""
        import resource, signal
        from pathlib import Path
        from gpt2lab.errors import ArchiveError
        from gpt2lab.record.metrics import MetricsWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        writer = MetricsWriter(Path({str(path)!r}))
        try:
            for step in range(1000):
                writer.append({{"step": step, "train_loss": 0.1}})
        except ArchiveError as error:
            print(step, error)
    """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    step, _, message = result.stdout.strip().partition(" ")
    assert "metrics.csv: cannot append" in message and "\n" not in message
    assert [row["step"] for row in read_metrics(path)] == list(range(int(step)))


def test_a_row_costs_microseconds(tmp_path):
    row = {"step": 10, "tokens": 81920, "train_loss": 3.21, "lr": 1e-3, "grad_norm": 0.5, "step_ms": 12.5}
    with MetricsWriter(tmp_path / "metrics.csv") as writer:
        rounds = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(1000):
                writer.append(row)
            rounds.append((time.perf_counter() - start) / 1000)
    # About 7 us on a quiet core; the bound only catches an fsync or a rewrite per row.
    assert min(rounds) < 200e-6, f"{min(rounds) * 1e6:.1f} us a row"


@pytest.mark.parametrize("step", ["20", "19", "-1", "9007199254740993", "1" + "0" * 400])
def test_a_step_that_does_not_ascend_or_that_no_run_reaches_is_damage(written, step):
    with written.open("a") as file:
        file.write(step + "," * (len(COLUMN_NAMES) - 1) + "\n")
    with pytest.raises(
        ArchiveError, match=r"metrics\.csv, line 5: damaged, step (.*, expected one from 21 to|is .*, not a number)"
    ):
        read_metrics(written)


def test_a_run_with_an_older_header_gets_the_columns_that_it_lacks_and_keeps_its_bytes(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,val_loss,removed_metric\n0,5.50,7\n10,,8\n20,3.")
    with MetricsWriter(path) as writer:
        writer.append({"step": 20, "val_loss": 3.25, "train_loss": 2.5})
    missing = [name for name in COLUMN_NAMES if name not in ("step", "val_loss")]
    header, first, second, third = path.read_text().splitlines()
    assert header.split(",") == ["step", "val_loss", "removed_metric", *missing]
    assert (first, second) == ("0,5.50,7" + "," * len(missing), "10,,8" + "," * len(missing))
    assert third.startswith("20,3.25,,,2.5,")
    assert [row["removed_metric"] for row in read_metrics(path)] == [7.0, 8.0, None]


def test_an_older_header_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    path.write_text("step,val_loss\n0,5.5\n")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsWriter(path)
    assert path.read_text() == "step,val_loss\n0,5.5\n"


def test_columns_of_another_order_stay_in_it(tmp_path):
    path = tmp_path / "metrics.csv"
    names = [COLUMN_NAMES[0], *reversed(COLUMN_NAMES[1:])]
    path.write_text(",".join(names) + "\n")
    with MetricsWriter(path) as writer:
        writer.append({"step": 0, "tokens": 3, "peak_mem_mib": 1.0})
    assert path.read_text().splitlines() == [",".join(names), "0,1.0" + "," * (len(names) - 2) + "3"]


def test_a_run_may_have_columns_of_its_own(tmp_path):
    path = tmp_path / "metrics.csv"
    own = [*COLUMNS[:2], Column(name="heads/pruned", label="Heads", description="", integer=True)]
    with MetricsWriter(path, own) as writer:
        writer.append({"step": 0, "tokens": 0, "heads/pruned": 3})
        with pytest.raises(AssertionError, match="val_loss"):
            writer.append({"step": 1, "val_loss": 0.5})
    assert path.read_text() == "step,tokens,heads/pruned\n0,0,3\n"
    (row,) = read_metrics(path)
    assert (row["heads/pruned"], row["val_loss"]) == (3.0, None)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("step,val_loss,lr,val_loss", "line 1: 2 columns are named val_loss"),
        ("step,val_loss,VAL_LOSS", "line 1: val_loss and VAL_LOSS differ in case only"),
        ("step,val_loss,", "line 1: '' is no column name"),
        ("step,val\x1b[31mloss", r"line 1: 'val\\x1b\[31mloss' is no column name"),
        ("step,9lives", "line 1: '9lives' is no column name"),
        ("step," + "x" * 101, "line 1: 'x{40}' is no column name"),
    ],
)
def test_a_header_with_a_repeated_or_unreadable_name_is_refused(tmp_path, header, says):
    path = tmp_path / "metrics.csv"
    path.write_text(f"{header}\n")
    for read in (read_metrics, MetricsWriter, lambda path: drop_rows_after(path, 0)):
        with pytest.raises(ArchiveError, match=says) as caught:
            read(path)
        assert caught.value.exit_code == 5
    assert path.read_text() == f"{header}\n"
