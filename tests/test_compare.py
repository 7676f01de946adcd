"""Comparing archived runs: arms, what may stand together, pairing by seed, verdicts."""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from run_records import PROVENANCE, text_rows, write_record

from gpt2lab.cli import main
from gpt2lab.errors import ArchiveError, ConfigError
from gpt2lab.model import bands
from gpt2lab.report.comparison import arms
from gpt2lab.report.comparison.arms import read_run
from gpt2lab.report.comparison.compare import compare
from gpt2lab.report.comparison.noise import MOST_FOR_NOISE
from gpt2lab.report.inputs import read_inputs

PROJECT = Path(__file__).parent.parent
OTHER_CODE = {"code_hash": "51" * 32}


@pytest.fixture
def archive(tmp_path):
    """Writes experiments 1, 2, ...: a band, a seed, and by how much its losses differ from the formula's."""

    def write(seed=0, band=0, shift=0.0, config=None, provenance=None, status=None, steps=100) -> Path:
        number = len(list(tmp_path.iterdir())) + 1
        rows = text_rows(steps=steps, eval_every=50)
        for row in rows:
            if row.get("val_loss") is not None:
                row["val_loss"] += shift
        widths = {"fc1_band": band, "fc2_band": band}
        return write_record(
            tmp_path / f"{number:05d}-run",
            rows,
            config={"seed": seed, "sparsity": "banded" if band else "dense", **widths, **(config or {})},
            provenance={"model": widths, **(provenance or {})},
            status={"step": steps, **(status or {})},
        )

    return write


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command line and returns what it printed: (stdout, stderr)."""

    def run(*arguments: str, expect: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["gpt2lab", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        output = capsys.readouterr()
        assert code == expect, output.err
        return output.out, output.err

    return run


@pytest.fixture
def three_seeds(archive):
    """Dense and banded, seeds 1 to 3: banded is 0.5 nats worse, seeds differ by 0.01."""
    dense = [archive(seed=seed, shift=seed / 100) for seed in (1, 2, 3)]
    banded = [archive(seed=seed, band=256, shift=0.5 + seed / 100 + 0.001 * (seed == 2)) for seed in (1, 2, 3)]
    return [*dense, *banded]


def test_runs_of_equal_config_are_one_arm_and_arms_are_paired_by_seed(three_seeds):
    found = compare(three_seeds)
    baseline, banded = found.rows
    assert found.step == 100
    assert list(baseline.by_seed) == [1, 2, 3]
    assert baseline.difference is None and baseline.judgement is None
    assert banded.varies == {"sparsity": "banded", "fc1_band": "256", "fc2_band": "256"}
    assert banded.difference.n == 3
    assert banded.difference.mean == pytest.approx(0.5 + 0.001 / 3)
    assert banded.difference.std == pytest.approx(0.001 / 3**0.5)
    assert found.floor.std == pytest.approx(0.01, rel=0.05)
    assert found.floor.runs == 6
    assert banded.judgement.verdict == "worse"
    [sentence] = found.sentences
    assert "worse" in sentence and "3 pairs of equal seed" in sentence


def test_the_density_is_the_exact_count(three_seeds):
    found = compare(three_seeds)
    assert found.rows[0].density == {"fc1": 1.0, "fc2": 1.0}
    assert found.rows[1].density["fc1"] == bands.band_mask(128, 256).mean()


def test_the_baseline_can_be_named(three_seeds):
    found = compare(three_seeds, baseline=three_seeds[4])
    assert found.rows[0].varies["fc1_band"] == "256"
    assert found.rows[1].judgement.verdict == "better"


def test_a_metric_that_grows_is_better_when_higher(three_seeds):
    found = compare(three_seeds, metric="val_accuracy")
    assert found.higher_is_better
    assert found.rows[1].judgement.verdict == "not distinguishable"


def test_one_seed_is_never_a_finding(archive):
    found = compare([archive(), archive(band=256, shift=3.0)])
    assert found.rows[1].judgement.verdict == "not distinguishable"
    assert "n = 1" in found.rows[1].judgement.rule
    assert found.floor is None


def test_p_values_are_corrected_for_how_many_arms_are_compared(archive):
    shifts = {0: (0.0, 0.0, 0.0), 64: (0.1, 0.13, 0.12), 256: (0.2, 0.4, 0.3)}
    runs = [archive(seed=s, band=band, shift=shift[s]) for band, shift in shifts.items() for s in range(3)]
    found = compare(runs)
    assert found.comparisons == 2
    ps = [row.difference.p for row in found.rows[1:]]
    assert [row.corrected_p for row in found.rows[1:]] == pytest.approx([2 * min(ps), max(ps)])
    assert found.rows[1].judgement.verdict == "worse"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"provenance": {"data": {"files": {"pydoc_data.topics": "db" * 32}}}}, "not the same data (files: pydoc_data"),
        ({"config": {"train": {"max_steps": 50}}}, "not the same steps (max_steps: "),
        ({"config": {"train": {"eval_batches": 5}}}, "not the same evaluation (eval_batches"),
        ({"config": {"model": {"n_layer": 2}}, "provenance": {"model": {"n_layer": 2}}}, "not the same model (n_layer"),
        ({"provenance": OTHER_CODE}, "not the same code (code_hash: c0dec0de against 51515151)"),
        ({"status": {"resumes": [OTHER_CODE]}}, "not the same code (code_hash: c0dec0de against "),
        ({"provenance": {"engine": {"precision": "bf16"}}}, "not the same engine (precision: fp32 against bf16)"),
    ],
)
def test_an_arm_that_differs_in_more_than_its_settings_stands_apart(archive, change, reason):
    change = {"provenance": {}, **change}
    model = change["provenance"].pop("model", {}) | {"fc1_band": 64, "fc2_band": 64}
    found = compare([archive(), archive(band=64, **{**change, "provenance": {**change["provenance"], "model": model}})])
    assert len(found.rows) == 1
    [(names, reasons)] = found.apart
    assert names == "00002-run"
    assert reason in " ".join(reasons)


def test_what_the_table_is_about_may_differ(archive):
    runs = [archive(), archive(config={"train": {"max_steps": 50}}, steps=50)]
    assert compare(runs).apart
    found = compare(runs, vary=["train.max_steps"])
    assert found.apart == ()
    assert found.step == 50
    assert any("not the same steps, as asked" in note for note in found.notes)
    assert "compared at step 50, the last that all have; max_steps=600 went on after it" in found.notes


@pytest.mark.parametrize("word", ["code", "source"])  # the second is the older word for it
def test_runs_of_one_config_and_different_code_can_be_compared_by_code(archive, word):
    runs = [archive(seed=1), archive(seed=1, provenance=OTHER_CODE)]
    with pytest.raises(ArchiveError, match=r"00001-run and 00002-run .* not the same code .*--vary code"):
        compare(runs)
    found = compare(runs, vary=[word])
    assert [row.varies for row in found.rows] == [{"code_hash": "c0dec0de"}, {"code_hash": "51515151"}]


def test_runs_of_the_same_code_are_one_arm_whatever_else_of_the_source_differs(archive):
    found = compare([archive(seed=1), archive(seed=2, provenance={"source_hash": "51" * 32}), archive(band=64)])
    assert found.rows[0].estimate.n == 2 and found.apart == ()


def test_older_runs_are_of_the_code_in_their_archived_source():
    runs = [PROJECT / "experiments" / f"0000{n}-{name}" for n, name in ((1, "default"), (3, "grokking"))]
    sweep = sorted((PROJECT / "experiments/00005-banded-comparison/runs").iterdir())
    one, same, *jobs = (read_run(run).fact("provenance.code_hash") for run in (*runs, *sweep))
    assert one == same and len(set(jobs)) == 1 and jobs[0] != one
    assert not any("code_hash" in (run / "provenance.json").read_text() for run in (*runs, *sweep))


def test_a_seed_that_an_arm_has_twice_is_refused_by_name(archive):
    with pytest.raises(ArchiveError, match="00001-run and 00002-run have the same config and the same seed, 4"):
        compare([archive(seed=4), archive(seed=4), archive(band=256)])


def test_unfinished_and_diverged_runs_are_named_and_counted_out(three_seeds, archive):
    failed = archive(seed=4, band=256, status={"state": "failed", "reason": "loss nan at step 80"})
    stopped = archive(seed=5, band=256, status={"state": "interrupted", "reason": "SIGINT"})
    found = compare([*three_seeds, failed, stopped])
    assert found.left_out == (("00007-run", "failed (loss nan at step 80)"), ("00008-run", "interrupted (SIGINT)"))
    assert found.rows[1].estimate.n == 3


def test_a_baseline_without_a_finished_run_is_refused(archive):
    with pytest.raises(ArchiveError, match=r"baseline has no run .*interrupted .*--baseline"):
        compare([archive(status={"state": "interrupted"}), archive(band=256)])


def test_seeds_that_an_arm_lacks_are_said_and_only_pairs_count(three_seeds):
    found = compare(three_seeds[:-1])
    assert found.rows[1].difference.n == 2
    assert any("no run with seed 3" in note for note in found.notes)


def test_the_noise_floor_counts_like_runs_of_the_whole_archive(archive):
    named = [archive(seed=0), archive(seed=0, band=256)]
    others = [archive(seed=seed, shift=seed / 10) for seed in (1, 2)]
    alien = archive(seed=5, shift=9.0, provenance={"data": {"files": {"other": "ee" * 32}}})
    again = archive(seed=2, shift=0.2)  # the same seed twice is no spread
    listed = [(path, json.loads((path / "provenance.json").read_text())) for path in (*named, *others, alien, again)]
    found = compare(named, archive=listed)
    assert found.floor.std == pytest.approx(0.1)
    assert (found.floor.runs, found.floor.groups) == (3, 1)


def test_hardware_is_noted_for_a_loss_and_decides_for_a_time(archive):
    runs = [archive(), archive(band=256, provenance={"model": {"fc1_band": 256}, "engine": {"device_name": "H200"}})]
    assert any("not the same hardware" in note for note in compare(runs).notes)
    assert compare(runs, metric="elapsed_s").apart


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "test_loss"}, "none of these 2 experiments measured it; measured were train_loss"),
        ({"metric": "lr"}, "is a setting or a count"),
        ({"metric": "beauty"}, "is not a metric of this version; expected one of train_loss"),
        ({"vary": ["optim.beta1"]}, "--vary optim.beta1: no such thing differs"),
        ({"baseline": Path("00009-run")}, "--baseline 00009-run is not among"),
    ],
)
def test_a_question_that_has_no_answer_is_one_line(archive, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        compare([archive(), archive(band=256)], **arguments)


def test_one_experiment_and_one_named_twice_are_refused(archive):
    run = archive()
    with pytest.raises(ConfigError, match="two experiments or more, got 1"):
        compare([run])
    with pytest.raises(ConfigError, match="named twice"):
        compare([run, run])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: !!python/object/apply:os.getcwd []", "damaged, it is not YAML"),
        ("seed: three", "seed is three, expected a whole number"),
        ("seed: 1\nname: x\noptim: {learning_rate: .nan}", "holds values that no config has"),
    ],
)
def test_a_damaged_config_is_named(archive, line, message):
    run = archive()
    (run / "config.yaml").write_text(line)
    with pytest.raises(ArchiveError, match=re.escape(message)):
        compare([run, archive(band=256)])


def test_words_of_a_strange_record_are_shown_harmlessly(archive):
    found = compare([archive(), archive(band=256, config={"optim": {"decay": "\x1b[2Jall\n" + "x" * 500}})])
    assert found.rows[1].varies["optim.decay"].startswith("?[2Jall?x")
    assert len(found.rows[1].varies["optim.decay"]) == 40


def test_the_command_prints_notes_table_and_verdicts(three_seeds, command, monkeypatch):
    monkeypatch.chdir(three_seeds[0].parent)
    out, _ = command("compare", *"123456", "--root", ".")
    assert "equal in all 6 runs: data, steps, evaluation, model, code, engine" in out
    assert re.search(r"4 5 6 +sparsity=banded .* 3 .* \+0\.5003 .* worse", out)
    assert "noise floor: 0.0" in out
    [found] = [json.loads(command("compare", *"123456", "--root", ".", "--json")[0])]
    assert found["rows"][1]["judgement"]["verdict"] == "worse"
    assert found["rows"][1]["estimate"]["n"] == 3


def test_the_command_ends_with_one_line_for_what_is_not_there(three_seeds, command, monkeypatch):
    monkeypatch.chdir(three_seeds[0].parent)
    assert command("compare", "1", "77", "--root", ".", expect=5)[1].count("\n") == 1
    assert "use the folder's whole name" in command("compare", "1", "run", "--root", ".", expect=5)[1]
    assert "two experiments" in command("compare", "1", "--root", ".", expect=2)[1]


def test_the_committed_dense_and_banded_runs_are_not_distinguishable(command):
    out, _ = command("compare", "1", "2", "--root", str(PROJECT / "experiments"))
    assert "sparsity=banded fc1_band=256 fc2_band=256: not distinguishable" in out
    assert "n = 1" in out
    assert "43.90 %" in out


def test_twenty_runs_of_an_archive_of_hundreds_read_no_more_than_they_need(archive, monkeypatch):
    runs = [archive(seed=seed, band=band) for band in (0, 64, 128, 256) for seed in range(5)]
    alien = json.loads(json.dumps(PROVENANCE | {"data": {"name": "other"}}))
    listed = [(Path(f"{number:05d}-not-there"), alien) for number in range(100, 2100)]
    found = compare(runs, archive=listed)  # reading any of those would be an error
    assert [row.estimate.n for row in found.rows] == [5, 5, 5, 5]
    assert found.comparisons == 3


def test_the_noise_floor_reads_a_bounded_number_of_runs(archive, monkeypatch):
    runs = [archive(seed=seed, band=band) for band in (0, 64, 128, 256) for seed in range(5)]
    like = archive(seed=9)
    read = []
    monkeypatch.setattr(arms, "read_inputs", lambda path: read.append(path) or read_inputs(path))
    begun = time.perf_counter()
    compare(runs, archive=[(like, PROVENANCE | {"source_hash": "other"})] * 2000)
    assert len(read) == len(runs) + MOST_FOR_NOISE
    # A second on the machine it was written on, whose whole command stays under three; this only catches a square.
    assert time.perf_counter() - begun < 20


def test_a_damaged_experiment_beside_does_not_cost_the_comparison(archive):
    named = [archive(), archive(band=256)]
    damaged = archive(seed=1)
    provenance = json.loads((damaged / "provenance.json").read_text())
    shutil.rmtree(damaged)
    assert compare(named, archive=[(damaged, provenance)]).floor is None


def test_values_measured_before_any_training_are_called_that(archive):
    found = compare([archive(seed=1, steps=0), archive(seed=1, band=256, steps=0)])
    assert found.step == 0
    assert any(note.startswith("step 0 is the only one that all have") for note in found.notes)


def test_an_archived_run_that_cannot_be_read_is_told_in_a_note(archive):
    named = [archive(seed=1), archive(seed=1, band=256)]
    third, broken = archive(seed=2), archive(seed=3)
    entries = [(path, json.loads((path / "provenance.json").read_text())) for path in (*named, third, broken)]
    (broken / "metrics.csv").write_text("no\nrows\n")
    found = compare(named, archive=entries)
    assert found.floor is not None and (found.floor.groups, found.floor.runs) == (1, 2)
    told = "the noise floor leaves out 1 archived record that cannot be read"
    assert any(note.startswith(told) for note in found.notes)
    assert not any("cannot be read" in note for note in compare(named, archive=entries[:3]).notes)


def test_other_tokens_are_not_compared_even_when_asked_to_vary_data(archive, command, tmp_path):
    data = {"data": {**PROVENANCE["data"], "tokenizer": "gpt2", "vocab_size": 50257}}
    for seed in (1, 2, 3):
        archive(seed=seed), archive(seed=seed, shift=0.5, provenance=data)
    said, _ = command("compare", "1", "2", "3", "4", "5", "6", "--vary", "data", "--root", str(tmp_path))
    assert "not compared" in said and "other tokens (tokenizer: bytes against gpt2" in said
    assert " worse" not in said and " better" not in said
    seconds = compare(sorted(tmp_path.iterdir()), metric="elapsed_s", vary=["data"])
    assert seconds.rows[1].difference is not None and seconds.rows[1].difference.n == 3  # time is of no tokens
