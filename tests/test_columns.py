"""A metric is one entry of COLUMNS: what each part of the project does with it."""

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from run_records import write_text_run
from tiny_runs import QUIET, run

from gpt2lab.archive.index import write_index
from gpt2lab.engine import Evaluation
from gpt2lab.errors import ArchiveError
from gpt2lab.record import columns
from gpt2lab.record.columns import COLUMNS, SPLITS, Column, column, evaluated, measures, result_names
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.tracker import Tracker
from gpt2lab.report import numbers, write_report
from gpt2lab.report.comparison.arms import read_run
from gpt2lab.report.comparison.compare import compare_runs
from gpt2lab.run import main
from gpt2lab.train.progress import format_row

PROJECT = Path(__file__).parent.parent
NEW = Column(
    name="val_error",
    label="Validation error",
    description="share of counted validation tokens predicted wrong",
    format="share",
    higher_is_better=False,
    short="error",
    split="val",
    measure="error",
)


@pytest.fixture
def new_metric(monkeypatch: pytest.MonkeyPatch) -> Column:
    """A metric that one entry adds, and a property of an evaluation to measure it."""
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, NEW))
    monkeypatch.setattr(Evaluation, "error", property(lambda self: 1 - self.accuracy), raising=False)
    return NEW


def test_a_new_metric_is_measured_written_tracked_and_reported(
    workplace: Path, new_metric: Column, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked: list[dict] = []
    monkeypatch.setattr(Tracker, "log", lambda self, row: tracked.append(dict(row)))
    path = run(
        *QUIET,
        "data=modular",
        "data.prime=11",
        "train.max_steps=3",
        "train.eval_every=1",
        'train.stop_when="val_error<=0"',
    )
    assert path is not None
    rows = read_metrics(path / "metrics.csv")
    assert [row["val_error"] for row in rows] == [1 - row["val_accuracy"] for row in rows]
    assert [row["val_error"] for row in tracked] == [row["val_error"] for row in rows]
    last = rows[-1]["val_error"]
    assert f"  error {last:.1%}" in capsys.readouterr().out

    write_report(path, "run")
    summary = json.loads((path / "summary.json").read_text())
    assert summary["val_error"] == last
    assert summary["best_val_error"] == min(row["val_error"] for row in rows)
    page = (path / "README.md").read_text()
    assert "Validation error |" in page and f"{last:.4f} |" in page
    assert f"| Last error | – | {last:.4f} |" in page

    two = [read_run(path), read_run(path, "again")]
    two[1].inputs.config["seed"] = 1
    with pytest.raises(ArchiveError, match="same seed"):  # far enough: it is a metric by which runs are compared
        compare_runs(two, metric="val_error")


def test_a_new_metric_is_in_the_table_of_the_readme_and_may_decide_a_sweep(
    workplace: Path, new_metric: Column, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("docs", PROJECT / "tools" / "docs.py")
    assert spec is not None and spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    assert "| `val_error` |  | share of counted validation tokens predicted wrong |" in docs.metrics_table()
    assert "val_error" in result_names()
    assert main(["-m", *QUIET, "seed=1,2", "sweep.metric=val_errors"]) == 2
    assert "val_accuracy, test_loss, test_accuracy, elapsed_s, peak_mem_mib, val_error" in capsys.readouterr().err


def test_labels_and_formats_of_the_page_and_the_index_are_those_of_the_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, dict] = {"val_loss": {"label": "Held-out loss"}, "val_accuracy": {"format": "decimal"}}
    changed = tuple(replace(entry, **changes.get(entry.name, {})) for entry in COLUMNS)
    monkeypatch.setattr(columns, "COLUMNS", changed)
    write_report(write_text_run(tmp_path / "00001-run"), "run")
    assert "| Held-out loss, step 1,000 (nats/token) |" in (tmp_path / "00001-run/README.md").read_text()
    summary = json.loads((tmp_path / "00001-run/summary.json").read_text())
    row = write_index(tmp_path).read_text().splitlines()[-1]
    assert f" | {summary['val_loss']:.3f} | {summary['val_accuracy']:.2f} | " in row


def test_every_split_has_its_own_loss_and_accuracy() -> None:
    assert measures() == ["loss", "accuracy"]
    assert [[entry.name for entry in evaluated(split).values()] for split in SPLITS] == [
        ["train_eval_loss", "train_accuracy"],
        ["val_loss", "val_accuracy"],
        ["test_loss", "test_accuracy"],
    ]
    assert all(hasattr(Evaluation, measure) for measure in measures())


def test_timings_losses_and_accuracies_have_a_direction_and_limits() -> None:
    assert {entry.name for entry in COLUMNS if entry.timing} == {"step_ms", "tokens_per_s", "elapsed_s", "peak_mem_mib"}
    assert [column(name).higher_is_better for name in ("val_loss", "val_accuracy", "lr")] == [False, True, None]
    assert column("test_accuracy").limits == (0.0, 1.0) and column("train_loss").limits[0] == 0.0


def test_a_name_without_an_entry_is_a_plain_number() -> None:
    unknown = column("sharpness")
    assert (unknown.label, unknown.higher_is_better, unknown.timing) == ("sharpness", None, False)
    assert (unknown.text(1.5), numbers.formatter("sharpness")(1.5)) == ("1.50", "1.5000")
    assert format_row({"step": 1, "sharpness": 1.5}) == ""


@pytest.mark.parametrize("path", sorted(PROJECT.glob("experiments/*/**/metrics.csv")), ids=lambda p: p.parent.name)
def test_the_metrics_of_every_archived_run_are_read_whole(path: Path) -> None:
    with path.open(newline="") as file:
        cells = list(csv.DictReader(file))
    rows = read_metrics(path)
    assert [{name: "" if row[name] is None else repr(row[name]) for name in cells[0]} for row in rows] == cells
