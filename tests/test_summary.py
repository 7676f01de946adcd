"""summary.json: each number against the record it was computed from."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import run_records

from gpt2lab.errors import ArchiveError
from gpt2lab.model import bands
from gpt2lab.report.summary import summarise


@pytest.fixture
def text_run(tmp_path: Path) -> Path:
    return run_records.write_text_run(tmp_path / "run")


def topics(summary: dict[str, Any]) -> dict[str, str]:
    return {finding["topic"]: finding["verdict"] for finding in summary["findings"]}


def test_a_summary_has_both_flop_figures(tmp_path: Path) -> None:
    flop = {"flop_per_token_dense": 900, "flop_per_token_computed": 300}
    summary = summarise(run_records.write_record(tmp_path, run_records.text_rows(), provenance={"model": flop}))
    assert {key: summary[key] for key in flop} == flop


def test_a_finished_run_gives_every_number_that_an_index_reads(text_run: Path) -> None:
    summary = summarise(text_run, "first light")
    last = run_records.text_rows()[-1]
    assert {key: summary[key] for key in ("name", "status", "steps", "tokens", "n_params", "date")} == {
        "name": "first light",
        "status": "finished",
        "steps": 1000,
        "tokens": 4_096_000,
        "n_params": 859_136,
        "date": "2026-03-01T10:00:00+00:00",
    }
    assert summary["hypothesis"] == run_records.CONFIG["hypothesis"]
    for column in ("train_loss", "train_eval_loss", "val_loss", "val_accuracy"):
        assert summary[column] == last[column]
    assert summary["test_loss"] is None and summary["best_test_loss_step"] is None


def test_perplexity_bits_per_byte_and_gap_follow_from_the_final_losses(tmp_path: Path) -> None:
    splits = {"data": {"splits": {"val": {"tokens": 1000, "bytes": 4000}}}}
    rows = run_records.text_rows()
    rows[-1] |= {"val_loss": 2.0, "train_eval_loss": 1.5}
    summary = summarise(run_records.write_record(tmp_path / "run", rows, provenance=splits))
    assert summary["perplexity"] == pytest.approx(math.exp(2.0))
    assert summary["bits_per_byte"] == pytest.approx(2.0 / math.log(2) / 4)
    assert summary["gap"] == pytest.approx(0.5)


def test_bits_per_byte_need_known_bytes_and_every_position(tmp_path: Path) -> None:
    for name, change in (
        ("bytes", {"data": {"splits": {"val": {"tokens": 1000, "bytes": None}}}}),
        ("counted", {"model": {"counted_positions": [4]}}),
    ):
        run = run_records.write_record(tmp_path / name, run_records.text_rows(), provenance=change)
        assert summarise(run)["bits_per_byte"] is None


def test_the_best_loss_is_the_lowest_and_the_best_accuracy_the_highest(tmp_path: Path) -> None:
    rows = run_records.text_rows()
    rows[50] |= {"val_loss": 0.5, "val_accuracy": 0.9}
    summary = summarise(run_records.write_record(tmp_path / "run", rows))
    assert (summary["best_val_loss"], summary["best_val_loss_step"]) == (0.5, 500)
    assert (summary["best_val_accuracy"], summary["best_val_accuracy_step"]) == (0.9, 500)
    assert topics(summary)["overfitting"] == "Best before the end"


def test_the_median_speed_leaves_the_warm_up_rows_out(tmp_path: Path) -> None:
    rows = run_records.text_rows(steps=40)
    for row, ms in zip(rows[1:], (900.0, 50.0, 60.0, 70.0), strict=True):
        row |= {"step_ms": ms, "tokens_per_s": 4096 / ms * 1e3}
    summary = summarise(run_records.write_record(tmp_path / "run", rows))
    assert summary["step_ms"] == 60.0
    assert summary["tokens_per_s"] == pytest.approx(4096 / 0.06)


def test_density_is_the_exact_share_of_kept_weights(tmp_path: Path) -> None:
    summary = summarise(run_records.write_banded_run(tmp_path / "run"))
    assert summary["density"] == {"fc1": bands.band_mask(128, 256).mean(), "fc2": bands.band_mask(128, 256).mean()}
    assert summary["ineffective_bands"] == []


def test_a_band_that_keeps_everything_is_reported_as_dense(tmp_path: Path) -> None:
    wide = {"model": {"fc1_band": 1024, "fc2_band": 256}}
    summary = summarise(run_records.write_record(tmp_path / "run", run_records.text_rows(), provenance=wide))
    assert summary["density"]["fc1"] == 1.0
    assert summary["ineffective_bands"] == ["fc1_band"]
    assert topics(summary)["bands"] == "A band without effect"


def test_a_grokking_run_has_its_steps_and_delay(tmp_path: Path) -> None:
    summary = summarise(run_records.write_grokking_run(tmp_path / "run"))
    rows = run_records.grokking_rows()
    seen, unseen = (
        next(row["step"] for row in rows if row[column] >= 0.99) for column in ("train_accuracy", "val_accuracy")
    )
    assert (summary["steps_to_train_accuracy"], summary["steps_to_val_accuracy"]) == (seen, unseen)
    assert summary["delay"] == unseen - seen
    assert topics(summary)["generalisation"] == "Delayed generalisation"


def test_the_unigram_entropy_is_no_reference_for_a_loss_over_answers(tmp_path: Path) -> None:
    summary = summarise(run_records.write_grokking_run(tmp_path / "run"))
    assert topics(summary)["references"] == "Better than a uniform guess"


def test_accuracy_over_running_text_is_not_read_as_generalisation(text_run: Path) -> None:
    assert "generalisation" not in topics(summarise(text_run))


def test_an_interrupted_run_of_one_row_has_blanks_and_says_that_nothing_was_trained(tmp_path: Path) -> None:
    summary = summarise(run_records.write_interrupted_run(tmp_path / "run"))
    assert (summary["status"], summary["steps"], summary["train_loss"], summary["step_ms"]) == (
        "interrupted",
        0,
        None,
        None,
    )
    assert topics(summary) == {"progress": "Nothing was trained", "seeds": "One run"}


def test_a_diverged_run_keeps_finite_numbers_and_is_valid_json(tmp_path: Path) -> None:
    summary = summarise(run_records.write_diverged_run(tmp_path / "run"))
    json.dumps(summary, allow_nan=False)
    assert (summary["steps"], summary["loss_step"], summary["train_loss"]) == (80, 60, 9.1)
    assert summary["findings"][0]["verdict"] == "Diverged" and "step 70" in summary["findings"][0]["text"]


def test_provenance_without_its_parts_gives_blanks(tmp_path: Path) -> None:
    run = run_records.write_text_run(tmp_path / "run")
    (run / "provenance.json").write_text("{}")
    summary = summarise(run)
    assert summary["n_params"] is None and summary["density"] == {} and summary["val_loss"] is not None


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "status.json"])
def test_a_missing_file_is_named(text_run: Path, name: str) -> None:
    (text_run / name).unlink()
    with pytest.raises(ArchiveError, match=f"{name}: cannot read: no such file"):
        summarise(text_run)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("status.json", "{", "status.json: damaged, it is not JSON"),
        ("status.json", "[]", "status.json: damaged, expected a JSON object"),
        ("config.yaml", "a: [", "config.yaml: damaged, it is not YAML"),
        ("config.yaml", "- 1", "config.yaml: damaged, expected a mapping"),
        ("config.yaml", "\xff", "config.yaml: damaged, it is not YAML"),
        ("overrides.yaml", "a: 1", "overrides.yaml: damaged, expected a list"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(text_run: Path, name: str, content: str, words: str) -> None:
    (text_run / name).write_text(content, encoding="latin-1")
    with pytest.raises(ArchiveError, match=words) as raised:
        summarise(text_run)
    assert "\n" not in str(raised.value)
