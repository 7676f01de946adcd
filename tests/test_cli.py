"""The `gpt2lab` command, as a person types it; exit codes and one-line errors."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2lab.errors import EngineError
from gpt2lab.run import main as run_main
from tests.test_store import make_run

TINY = [
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=8",
    "model.max_seq_len=16",
    "train.batch_size=2",
    "train.max_steps=3",
    "train.eval_batches=1",
    "sample.count=1",
    "sample.max_tokens=5",
    "tracker=none",
]


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory) -> Path:
    """A folder with one archived run, `first`, and one that is not, `second`."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run_main([*TINY, "name=first", "hydra.run.dir=runs/first"]) == 0
        assert run_main([*TINY, "name=second", "archive.mode=off", "hydra.run.dir=runs/second"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def workplace(finished_runs, tmp_path, monkeypatch) -> Path:
    """A copy of the two runs and their archive as the current directory."""
    shutil.copytree(finished_runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_names_each_experiment_with_its_numbers(workplace, command):
    out, _ = command("list")
    assert "00001" in out
    assert "first" in out
    assert "pydocs" in out
    [entry] = [json.loads(line) for line in command("list", "--json")[0].splitlines()]
    assert (entry["number"], entry["name"]) == (1, "first")
    assert entry["val_loss"] == pytest.approx(5.5, abs=0.2)


def test_an_empty_archive_is_said_to_be_empty(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert "no experiments" in command("list")[0]


@pytest.mark.parametrize("ref", ["1", "00001", "00001-first", "first"])
def test_show_finds_an_experiment_by_number_folder_or_name(workplace, command, ref):
    out, _ = command("show", ref)
    assert "Method" in out
    assert "nats" in out
    assert json.loads(command("show", ref, "--json")[0])["name"] == "first"


def test_show_of_a_number_that_does_not_exist_lists_what_there_is(workplace, command):
    _, error = command("show", "7", expect=5)
    assert error.count("\n") == 1
    assert "00001-first" in error


def test_snapshot_archives_the_named_run_once(workplace, command):
    assert "experiments/00002-second" in command("snapshot", "runs/second")[0]
    assert "00002-second" in Path("experiments/README.md").read_text()
    _, error = command("snapshot", "runs/second", expect=5)
    assert "archived already, as 00002-second" in error
    assert "00003" in command("snapshot", "runs/second", "--force", "--name", "Again, please")[0]
    assert Path("experiments/00003-again-please/README.md").is_file()


def test_snapshot_without_a_name_takes_the_latest_run(workplace, command):
    assert "runs/second is experiment" in command("snapshot")[0]


def test_snapshot_of_a_folder_takes_each_run_that_is_not_archived_yet(workplace, command):
    out, error = command("snapshot", "runs")
    assert out.count("is experiment") == 1
    assert "left out: this run is archived already, as 00001-first" in error


def test_snapshot_of_a_folder_passes_over_a_run_that_never_began(workplace, command):
    Path("runs/broken").mkdir()
    Path("runs/broken/status.json").write_text('{"state": "failed", "reason": "no data"}')
    out, error = command("snapshot", "runs")
    assert out.count("is experiment") == 1
    assert "left out: runs/broken" in error


def test_snapshot_says_when_the_weights_are_gone(workplace, command):
    Path("runs/second/model.bin").unlink()
    assert "without weights" in command("snapshot", "runs/second")[0]


def test_a_report_is_written_over_a_damaged_summary(workplace, command):
    Path("experiments/00001-first/summary.json").write_text("{")
    command("report", "1")
    assert json.loads(Path("experiments/00001-first/summary.json").read_text())["name"] == "first"


def test_a_folder_of_which_nothing_is_archived_makes_no_archive(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_run(Path("runs") / name, state="interrupted")
    assert "none of its 2 runs was archived" in command("snapshot", "runs", expect=5)[1]
    assert not Path("experiments").exists()


def test_a_fault_in_a_report_is_one_line_unless_a_traceback_is_asked_for(workplace, command, monkeypatch):
    def broken(*_: object) -> None:
        raise TypeError("unhashable type: 'list'")

    monkeypatch.setattr("gpt2lab.report.write_report", broken)
    monkeypatch.setattr("gpt2lab.cli.compare.compare_runs", lambda *_, **__: broken())
    line = "gpt2lab: internal error: TypeError: unhashable type: 'list'"
    assert command("report", "1", expect=1)[1].startswith(line)
    assert command("compare", "1", "first", expect=1)[1].startswith(line)
    monkeypatch.setenv("GPT2LAB_TRACEBACK", "1")
    with pytest.raises(TypeError, match="unhashable"):
        command("report", "1")


def test_a_folder_that_happens_to_have_the_name_of_an_experiment_is_not_sampled_from(workplace, command):
    Path("first").mkdir()
    assert command("sample", "first", "--max-tokens", "1")[0]


def test_snapshot_of_nothing_is_one_line(workplace, command):
    assert "holds no run" in command("snapshot", "nowhere", expect=5)[1]
    Path("empty").mkdir()
    assert "holds no run" in command("snapshot", "empty", expect=5)[1]


def test_snapshot_of_an_unfinished_run_needs_force(workplace, command):
    status = json.loads(Path("runs/second/status.json").read_text())
    Path("runs/second/status.json").write_text(json.dumps(status | {"state": "interrupted", "reason": "a storm"}))
    _, error = command("snapshot", "runs/second", expect=5)
    assert "interrupted (a storm)" in error
    assert "--force" in error
    command("snapshot", "runs/second", "--force")
    assert "interrupted" in Path("experiments/00002-second/README.md").read_text()


def test_report_is_written_again_to_the_same_bytes_and_takes_over_notes(workplace, command):
    path = Path("experiments/00001-first")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    command("report", "1")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    (path / "notes.md").write_text("## Conclusion\n\nIt learned *something*.\n")
    command("report", "1")
    assert "It learned *something*." in (path / "README.md").read_text()
    assert (path / "notes.md").read_text() == "## Conclusion\n\nIt learned *something*.\n"


@pytest.mark.parametrize("ref", ["1", "runs/second", "runs/second/model.bin"])
def test_sample_writes_text_from_experiments_runs_and_files(workplace, command, ref):
    out, _ = command("sample", ref, "--prompt", "The", "--max-tokens", "4", "--count", "2", "--temperature", "0")
    first, second = out.split("--- sample 2 ---\n")
    assert first.removeprefix("--- sample 1 ---\n") == second  # without temperature both take the likeliest
    assert second.startswith("The")
    again, _ = command("sample", ref, "--prompt", "The", "--max-tokens", "4", "--seed", "3")
    assert command("sample", ref, "--prompt", "The", "--max-tokens", "4", "--seed", "3")[0] == again


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sample", "9"], 5, "names no experiment"),
        (["sample", "runs/second/metrics.csv"], 3, "too short for the header"),
        (["sample", "runs/second/source.tar.gz"], 3, "magic number"),
        (["sample", "1", "--prompt", ""], 2, "the prompt is empty"),
        (["sample", "1", "--count", "0"], 2, "count"),
        (["sample", "1", "--temperature", "nan"], 2, "temperature nan"),
        (["sample", "1", "--tokenizer", "gpt2"], 2, "knows its tokenizer"),
        (["parity", "none.bin", "none.bin"], 3, "none.bin: no such file"),
        (["parity", "runs/second/model.bin", "runs/second/model.bin"], 3, "magic number 20240326, expected 20240327"),
        (["plan", "model.n_layr=3"], 2, "did you mean model.n_layer"),
        (["plan", "data=modular", "train.seq_len=9"], 2, "rows of 8 positions"),
        (["data", "prepare", "moby_dick"], 2, "moby_dick"),
        (["data", "prepare", "text"], 2, "data.path is not set"),
        (["data", "prepare", "text", "data.path=nowhere.txt"], 3, "nowhere.txt"),
        (["nonsense"], 2, "No such command"),
        (["list", "--rooot", "x"], 2, "--rooot"),
    ],
)
def test_nonsense_is_one_line_and_its_exit_code(workplace, command, arguments, code, words):
    out, error = command(*arguments, expect=code)
    assert out == ""
    assert error.startswith("gpt2lab: ")
    assert error.count("\n") == 1
    assert words in error


def test_parity_prints_a_table_and_passes_on_llmc_files(golden, command):
    files = [str(golden / "model.bin"), str(golden / "debug_state.bin")]
    out, _ = command("parity", *files)
    assert out.count(" ok\n") == 18
    rows = [json.loads(line) for line in command("parity", *files, "--json")[0].splitlines()]
    assert all(row["passed"] for row in rows)


def test_plan_counts_what_a_model_needs(command):
    out, _ = command("plan", "model=gpt2", "data.tokenizer=gpt2", "sparsity=banded", "fc2_band=0")
    assert "124,475,904 stored" in out  # 124,439,808 and 47 padded rows of 768
    assert "density 8.19%" in out
    assert "FC2              dense" in out


def test_plan_lists_every_array_of_the_cuda_core_and_its_sum(command):
    out, _ = command("plan", "engine.precision=bf16", "train.micro_batch_size=4", "train.seq_len=64")
    sizes = {"B": 1, "KiB": 2**10, "MiB": 2**20}
    rows = [line.split() for line in out.splitlines() if re.match(r"\s+[\d,.]+ (B|KiB|MiB)  ", line)]
    groups = [row for row in rows if not re.search(r"(32|16|64|8)$", row[-1])]
    arrays = {row[2]: float(row[0].replace(",", "")) * sizes[row[1]] for row in rows if row not in groups}
    assert arrays["logits"] == 4 * 64 * 256 * 2
    total = float(re.search(r"memory +([\d.,]+) MiB", out)[1].replace(",", "")) * 2**20
    assert sum(arrays.values()) == pytest.approx(total, rel=0.01)
    assert sum(float(row[0]) * sizes[row[1]] for row in groups) == pytest.approx(total, rel=0.01)
    assert "recomputation" in out
    assert "FLOP dense" in out


def test_plan_says_that_a_band_that_keeps_everything_is_dense(command):
    out, _ = command("plan", "experiment=band_cost")
    assert out.startswith("sweep            18 jobs; this is the first, fc1_band=32 seed=1\n")
    assert "band 32 of 512 hidden units" in out
    assert command("plan", "-m", "sparsity=banded", "fc1_band=64,32")[0].startswith("sweep            2 jobs;")
    out, _ = command("plan", "sparsity=banded", "fc1_band=1024")
    assert "density 100.00%; the band keeps everything: dense" in out


def test_data_prepare_says_what_there_is(command):
    out, _ = command("data", "prepare", "modular", "data.prime=23")
    assert "train          2,112 tokens" in out


def test_doctor_names_the_engines(command):
    out, _ = command("doctor")
    assert "torch on" in out
    assert "cuda core" in out
    assert "cuda on host" in out


def test_doctor_names_a_missing_library_of_matrix_products(command, monkeypatch):
    def refuse(*_) -> None:
        raise EngineError("nvmath-python cannot be imported")

    monkeypatch.setattr("gpt2lab.engine.cuda.check.create_gemm", refuse)
    assert "nvmath-python cannot be imported" in command("doctor")[0].replace("\n", " ")


def test_bash_completes_keys_and_commands():
    def complete(line: str) -> list[str]:
        environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
        script = [sys.executable, "-c", "from gpt2lab.cli import main; main()", "-sc", "query=bash"]
        return subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout.split()

    assert "snapshot" in complete("gpt2lab ")
    assert "train.max_steps=" in complete("gpt2lab run train.max")
    assert "data=modular" in complete("gpt2lab run data=mo")


def test_sampling_with_the_cuda_core_gives_the_words_that_torch_gives(workplace, command):
    words = [
        command("sample", "1", "--max-tokens", "8", "--engine", engine, "--device", device)[0]
        for engine, device in (("torch", "cpu"), ("cuda", "host"))
    ]
    assert words[0] == words[1]
    assert words[0].strip()


def test_parity_runs_on_the_cuda_core(command, golden):
    files = str(golden / "model.bin"), str(golden / "debug_state.bin")
    out, _ = command("parity", *files, "--engine", "cuda", "--device", "host", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 18
    assert all(row["passed"] for row in rows)
