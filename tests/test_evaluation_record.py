"""evaluation.json and its page, from numbers made up by hand."""

import json
import re
from pathlib import Path

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.report.evaluation.page import chain_rows, check_output, domain_rows, matrix_rows, write_evaluation
from gpt2lab.report.evaluation.record import record_evaluation

LOSS = {"first": (1.0, 3.0), "second": (1.5, 2.0), "untrained": (5.0, 5.5)}


def make_record(*, names=("first", "second"), tasks=("a", "b"), chained=True, before=None, **changes) -> dict:
    """A record of models by name, each started from the one before it and trained on the task of its place."""
    models = [
        {
            "name": name,
            "sha256": f"{i}" * 64,
            "starts_from": f"{i - 1}" * 64 if chained and i else None,
            "data_files": {"file": f"hash of {'ab'[i]}"} if name != before and i < 2 else None,
            "engine": ["torch", "cpu (a processor)", "fp32"],
        }
        for i, name in enumerate(names)
    ]
    if before:
        models.insert(0, {**models[0], "name": before, "sha256": None})
    described = [
        {
            "name": task,
            "overrides": ["data=text"],
            "source": "text",
            "tokenizer": "bytes",
            "vocab_size": 256,
            "row_len": None,
            "seq_len": 16,
            "counted_positions": None,
            "data_files": {"file": f"hash of {task}"},
        }
        | changes
        for task in tasks
    ]
    measured = [
        {
            "model": model["name"],
            "task": task,
            "loss": LOSS[model["name"]][j],
            "accuracy": 1 / (1 + LOSS[model["name"]][j]),
            "tokens": 1000,
            "n_bytes": 1000,
        }
        for model in models
        for j, task in enumerate(tasks)
    ]
    facts = {"date": "2026-01-02T03:04:05.678Z", "command": ["gpt2lab", "evaluate"], "split": "val"}
    return record_evaluation(
        models=models, tasks=described, measured=measured, before=before, batches=None, batch_size=16, **facts
    )


def test_a_chain_has_its_measures_and_a_sentence_that_carries_them():
    record = make_record()
    assert record["chain"]["loss"]["forgetting"] == [0.5, None]
    assert record["chain"]["accuracy"]["diagonal"] == [0.5, pytest.approx(1 / 3)]
    [forgotten, averages] = record["findings"]
    assert forgotten["verdict"] == "a: forgotten"
    for number in ("1.0000", "1.5000", "60.7 %", "+0.5000"):  # exp(-0.5) = 0.607
        assert number in forgotten["text"]
    assert (
        "at the end 1.7500 nats per token, forgetting of all but the last +0.5000, backward transfer to these −0.5000."
        in (averages["text"])
    )
    assert record["notes"] == ["Each row is one model, so nothing here says how much another seed would differ."]
    json.dumps(record, allow_nan=False)


def test_answers_are_judged_by_their_accuracy():
    record = make_record(counted_positions=[4], row_len=8)
    assert (
        "the accuracy on a is 0.5000, at the end (second) 0.4000; 80.0 % of that accuracy"
        in (record["findings"][0]["text"])
    )


def test_a_change_too_small_to_matter_is_not_called_one(monkeypatch):
    monkeypatch.setitem(LOSS, "second", (1.004, 2.0))
    assert make_record()["findings"][0]["verdict"] == "a: kept"
    monkeypatch.setitem(LOSS, "second", (0.9, 2.0))
    assert make_record()["findings"][0]["verdict"] == "a: better than ever"


def test_models_that_were_not_started_from_each_other_are_said_to_be_no_chain():
    record = make_record(chained=False)
    assert "second has no record of a start from first" in record["notes"][0]
    assert record["chain"] is not None  # the measures are there, but no sentence says "forgotten"
    assert [finding["verdict"] for finding in record["findings"]] == ["a: first lowest", "b: second lowest"]


def test_a_phase_on_other_data_is_said_not_to_be_one():
    notes = make_record(data_files={"file": "hash of b"})["notes"]
    assert len(notes) == 2
    assert notes[0].startswith("first has no record of training on the data of a")


def test_the_model_before_the_first_phase_is_no_phase_and_gives_forward_transfer():
    record = make_record(before="untrained")
    assert record["matrices"]["loss"] == [[1.0, 3.0], [1.5, 2.0]]
    assert record["chain"]["loss"]["forward"] == [None, 2.5]
    _, rows = matrix_rows(record, "loss")
    assert rows[0] == ["untrained (before)", "5.0000", "5.5000"]
    columns, rows = chain_rows(record, "loss")
    assert columns[-1] == "forward"
    assert rows[-1] == ["average", "1.5000", "1.7500", "0.607", "0.5000", "−0.5000", "2.5000"]


def test_without_as_many_models_as_tasks_there_is_no_chain():
    record = make_record(tasks=("a",))
    assert record["chain"] is None
    assert chain_rows(record, "loss") == ([], [])
    assert record["findings"][0]["verdict"] == "a: first lowest"
    assert "a gap of 0.5000" in record["findings"][0]["text"]


def test_one_model_has_its_domains_in_order():
    record = make_record(names=("second",))
    assert "lowest first: a 1.5000, b 2.0000" in record["findings"][0]["text"]
    assert record["notes"] == []
    assert domain_rows(record)[0] == ["second", "a", "1.5000", "4.48", "2.1640", "0.4000", "1,000"]  # 1.5 / ln 2


def test_the_page_shows_every_number_and_describes_its_figures(tmp_path: Path):
    write_evaluation(make_record(before="untrained"), tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert "# Evaluation of 2 models on 2 data sources" in page
    assert "| first | **1.0000** | 3.0000 |" in page
    assert "| a | 1.0000 | 1.5000 | 0.607 | 0.5000 | −0.5000 | – |" in page
    for name in ("loss", "accuracy"):
        assert (tmp_path / "out" / "figures" / f"{name}.svg").stat().st_size > 1000
    alt = re.search(r"!\[(Loss[^]]*)\]\(figures/loss\.svg\)", page)
    assert alt is not None and "first: a 1.0000, b 3.0000; second: a 1.5000, b 2.0000" in alt[1]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["kind"] == "evaluation"


def test_the_same_record_gives_the_same_bytes(tmp_path: Path):
    for name in ("one", "other"):
        write_evaluation(make_record(), tmp_path / name)
    for file in ("README.md", "evaluation.json", "figures/loss.svg", "figures/accuracy.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_a_hostile_name_stays_text(tmp_path: Path):
    write_evaluation(make_record(tasks=("<script>|$x$", "b"), data_files={"<b>": "0" * 64}), tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;\\|" in page


def test_a_page_is_written_over_an_earlier_one_but_over_nothing_else(tmp_path: Path):
    write_evaluation(make_record(), tmp_path / "out")
    write_evaluation(make_record(names=("second",)), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(ArchiveError, match=r"no evaluation\.json"):
        write_evaluation(make_record(), tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"
    with pytest.raises(ArchiveError, match="is a file"):
        check_output(tmp_path / "mine" / "README.md")


def test_a_ratio_that_no_number_holds_is_left_out(monkeypatch):
    monkeypatch.setitem(LOSS, "first", (1000.0, 1000.0))
    record = make_record()
    assert record["chain"]["loss"]["retention"] == [None, None]
    assert "probability" not in record["findings"][0]["text"]
    assert record["measurements"][0]["perplexity"] is None
    json.dumps(record, allow_nan=False)
