"""tools/gpu_check.py, rehearsed on the host device: what it proves, measures and writes, not how fast anything is."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_rows import addition_table, rows_of

from gpt2lab.data import describe_source, read_source
from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.errors import EngineError
from gpt2lab.model.flops import dense_flop_per_token
from gpt2lab.model.params import count_parameters
from gpt2lab.schema import DataConfig, Precision

PROJECT = Path(__file__).parent.parent
REHEARSAL = ["--device", "host", "--rehearse"]
STEP_KEYS = {"batch_size", "case", "counted", "flop_per_token", "notes", "ours", "precision", "ratio", "seconds"}
STEP_KEYS |= {"everything", "saved", "seq_len", "status", "steps_per_round", "torch"}
SIDE_KEYS = {"loss", "ms", "peak_mem_mib", "tflop_per_s", "tokens_per_s"}
KERNELS = {"AdamW", "gradient norm", "layer norm forward", "layer norm backward", "residual + layer norm forward"}
KERNELS |= {"bias + GELU forward", "GELU backward", "bias forward (3C)", "bias backward (3C)", "attention forward"}
KERNELS |= {"attention backward", "embedding forward", "embedding backward"}
KERNELS |= {"cross entropy forward", "cross entropy backward"}


def written(folder: Path) -> dict:
    [path] = folder.glob("*.json")
    assert path.name.startswith("rehearsal-")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_rehearsal_fills_in_every_key_and_says_what_it_is(gpu_check, tmp_path, capsys):
    assert gpu_check.main([*REHEARSAL, "--proofs", "adamw", "positions", "--out", str(tmp_path)]) == 0
    record = written(tmp_path)
    assert record["rehearsal"] is True and record["complete"] is True and record["about"].startswith("REHEARSAL")
    assert record["device"]["kind"] == "host"
    assert set(record) == {
        *("about", "ceilings", "commit", "complete", "date", "device", "kernels", "proof", "rehearsal", "seconds"),
        *("bands", "chosen", "errors", "predicted_seconds", "steps", "versions"),
    }
    assert {"python", "numpy", "torch", "driver", "driver_cuda", "runtime_cuda", "cublas", "cublaslt"} <= set(
        record["versions"]
    )

    proven = {(each["name"], each["precision"]) for each in record["proof"]}
    ops = {(op, precision) for op in ("adamw", "positions") for precision in ("fp32", "bf16")}
    assert proven == ops | {("step, short rows, banded, masked", precision) for precision in ("fp32", "bf16")}
    for each in record["proof"]:
        assert each["n_checks"] >= 5 and each["failed"] == []
        assert each["worst"] is None or each["worst"]["error"] <= each["worst"]["tolerance"]

    assert record["ceilings"]["copy"]["gb_per_s"] > 0
    products = record["ceilings"]["gemm"]
    assert {each["precision"] for each in products} == {"fp32", "tf32", "bf16"}
    assert len(products) == 3 * (5 * 3 + 1)
    assert all(each["tflop_per_s"] > 0 and each["seconds"]["q1"] <= each["seconds"]["q3"] for each in products)
    assert {each["kernel"] for each in record["kernels"]} == KERNELS
    for each in record["kernels"]:
        assert (each["gb_per_s"] is None) == (each["kernel"].startswith("attention"))

    assert [row["status"] for row in record["steps"]] == ["ok", "ok", "ok"]
    for row in record["steps"]:
        assert set(row) == STEP_KEYS and row["case"].startswith("rehearsal of ")
        assert set(row["ours"]) == SIDE_KEYS and set(row["torch"]) == SIDE_KEYS | {"variant"}
        variants = {"eager with masked weights", "eager with masked gradients"} if "bands" in row["case"] else {"eager"}
        assert row["torch"]["variant"] in variants
        leaves_out = "bands" in row["case"] or "answer" in row["case"]
        assert (row["everything"] is not None) == (row["saved"] is not None) == leaves_out
        if leaves_out:  # the same updates, but for rounding
            assert row["everything"]["loss"] == pytest.approx(row["ours"]["loss"], rel=1e-3)
        assert row["ratio"]["q1"] <= row["ratio"]["median"] <= row["ratio"]["q3"]
        # both sides started from the same parameters and saw batches of the same tokens
        assert row["ours"]["loss"] == pytest.approx(row["torch"]["loss"], abs=0.3)
    assert "REHEARSAL" in capsys.readouterr().out


def test_a_check_that_fails_makes_the_exit_code_1_and_nothing_is_timed(gpu_check, tmp_path, monkeypatch, capsys):
    from gpu.step_proof import _Step
    from proof import Check

    found = [Check(name="gradient of wte", error=1e-6, tolerance=1e-12)]
    monkeypatch.setattr(_Step, "check", lambda self: iter(found))
    assert gpu_check.main([*REHEARSAL, "--proofs", "adamw", "--out", str(tmp_path)]) == 1
    record = written(tmp_path)
    assert [bool(each["failed"]) for each in record["proof"]] == [False, False, True, True]
    assert record["steps"] is None and record["kernels"] is None
    printed = capsys.readouterr().out
    assert "FAILED step, short rows, banded, masked fp32: gradient of wte: error " in printed
    assert "not timed: something above failed" in printed


def test_a_wrong_op_is_reported_and_the_others_are_still_proven(gpu_check, monkeypatch):
    from gpu.proof import prove_ops
    from proofs import adamw, positions

    def broken(device, precision):
        yield from ()
        raise EngineError("the card reports an illegal address")

    monkeypatch.setattr(adamw, "check", broken)
    found = {(each["name"], each["precision"]): each for each in prove_ops(HostDevice(), ["adamw", "positions"])}
    assert found["adamw", "bf16"]["failed"] == ["adamw: stopped by EngineError: the card reports an illegal address"]
    assert found["positions", "bf16"]["failed"] == []
    assert hasattr(positions, "check")


def test_no_checks_at_all_are_a_failure(gpu_check):
    from gpu.proof import summary

    assert summary("nothing", "fp32", lambda: iter(()))["failed"] == ["nothing: made no checks"]


def test_a_figure_that_is_not_a_number_fails_and_can_still_be_written(gpu_check, tmp_path):
    from gpu import proof, report
    from proof import Check

    checks = [Check(name=name, error=error, tolerance=1e-3) for name, error in (("a", 5e-4), ("b", np.nan), ("c", 0.1))]
    found = proof.summary("op", "fp32", lambda: iter(checks))
    assert [line.split(":")[0] for line in found["failed"]] == ["b", "c"]
    assert found["worst"]["check"] == "b"
    record = report.new_record(HostDevice(), rehearsal=True, commit="unknown", chosen={}) | {"proof": [found]}
    assert "FAILED op fp32: b: error nan" in report.proof_table([found])
    assert '"error": "nan"' in report.write(record, tmp_path).read_text()


def test_products_are_proven_in_tf32_too_and_every_op_is_found(gpu_check):
    from gpu.proof import PRODUCTS, op_proofs

    files = {path.stem for path in (PROJECT / "tests" / "proofs").glob("*.py") if "\ndef check(" in path.read_text()}
    assert set(op_proofs()) == files
    assert set(PRODUCTS) <= files


def test_the_cases_are_those_that_are_asked_for(gpu_check):
    from gpu.cases import GPT2_VOCAB, chosen_cases

    cases = chosen_cases(None, rehearsal=False)
    millions = {case.name.split()[0]: count_parameters(case.model) / 1e6 for case in cases}
    assert round(millions["124M"]) == 124 and round(millions["51M"]) == 51 and round(millions["7.3M"], 1) == 7.3
    assert {(case.batch_size, case.seq_len) for case in cases} == {
        *((64, 1024), (16, 1024), (8, 512), (64, 256), (4704, 8), (256, 8))
    }
    equations = [case for case in cases if case.name.startswith("equations")]
    data = describe_source(DataConfig(source="modular", prime=97))
    assert {case.model.vocab_size for case in equations} == {data.vocab_size}
    assert {case.counted for case in equations} == {None, (data.answer_span[0],)}
    assert {case.precision for case in equations} == {Precision.tf32, Precision.fp32}
    assert equations[0].batch_size == len(addition_table())
    assert [case.name for case in chosen_cases(["64x1024"], rehearsal=False)] == [
        "124M 64x1024 bf16",
        *(f"124M 64x1024 bf16 bands of {band}" for band in (256, 512, 1024)),
    ]
    with pytest.raises(ValueError, match="no case is named 125M; there are: 124M 16x1024 bf16;"):
        chosen_cases(["125M"], rehearsal=False)
    assert {case.model.vocab_size for case in cases} - {data.vocab_size} == {GPT2_VOCAB}


def test_what_does_not_fit_fails_or_has_no_time_left_is_said_in_its_row(gpu_check, monkeypatch):
    from gpu import steps
    from gpu.cases import chosen_cases
    from gpu.clock import Budget

    cases = chosen_cases(["equations"], rehearsal=True)[:4]
    cases[3] = replace(cases[3], seconds=1000.0)
    errors = [EngineError("engine=cuda needs 5 MiB and the device has 1 MiB free"), EngineError("no"), ValueError("so")]
    monkeypatch.setattr(steps, "_time_case", lambda *_, **__: (_ for _ in ()).throw(errors.pop(0)))
    rows = list(steps.time_cases(cases, gpu_check.DeviceChoice.host, Budget(100.0), rehearsal=True))
    assert [row["status"].split(":")[0] for row in rows] == ["does not fit", "failed", "failed", "left out"]


def test_figures_of_a_step_follow_from_its_seconds(gpu_check):
    from gpu import steps
    from gpu.cases import GPT2_124M, chosen_cases

    case = chosen_cases(["124M 64x1024"], rehearsal=False)[0]
    found = steps._figures(case, [0.5, 0.25, 0.3])
    assert found["ms"]["median"] == 300
    assert found["tokens_per_s"] == 64 * 1024 / 0.3
    assert found["tflop_per_s"] == pytest.approx(dense_flop_per_token(GPT2_124M, 1024) * 64 * 1024 / 0.3 / 1e12)


def test_a_pair_of_operands_is_multiplied_as_the_step_does_it(gpu_check):
    from gpu.cases import GPT2_124M
    from gpu.ceilings import products_of_step

    products = {product.name: product for product in products_of_step(GPT2_124M, 100)}
    flop = sum(2 * p.M * p.N * p.K for p in products.values())
    C, Vp = 768, 50304
    assert flop == 6 * 100 * (12 * C * C + C * Vp)  # one layer's matrices and the output layer, forward and backward
    assert (products["fc1 backward to weight"].M, products["fc1 backward to weight"].N) == (4 * C, C)


def test_random_arrays_are_not_zero_and_repeat_beyond_their_block(gpu_check, monkeypatch):
    from gpu import memory

    monkeypatch.setattr(memory, "_BLOCK", 10)
    memory._random_block.cache_clear()
    found = memory.random_array(HostDevice(), (5, 5), np.float32)
    memory._random_block.cache_clear()
    assert np.count_nonzero(found) == 25
    np.testing.assert_array_equal(found.ravel()[:10], found.ravel()[10:20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "host"], "--device host needs --rehearse"),
        ([*REHEARSAL, "--out", str(PROJECT / "tools" / "benchmarks")], "is for figures of a card"),
        ([*REHEARSAL, "--proofs", "adamx"], "no proof is named adamx; there are adamw, "),
        ([*REHEARSAL, "--cases", "GPT-5"], "no case is named GPT-5"),
    ],
)
def test_wrong_options_are_refused_in_words(gpu_check, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_part_of_the_check_does_not_replace_the_record_of_the_whole(gpu_check, tmp_path):
    from gpu import report

    options = [gpu_check.read_options(args) for args in ([], ["--cases", "124M 16x1024", "51M", "--skip-torch"])]
    records = [
        report.new_record(HostDevice(), rehearsal=False, commit="unknown", chosen=gpu_check.chosen(each))
        for each in options
    ]
    whole, part = (report.path_of(record | {"device": {"name": "NVIDIA H200"}}, tmp_path).stem for record in records)
    assert whole == f"gpu-check-nvidia-h200-{records[0]['date'][:10]}"
    assert part == f"{whole}-cases-skip-torch-124m-16x1024-51m"


@pytest.mark.slow
def test_an_error_while_measuring_is_kept_and_the_steps_are_still_timed(gpu_check, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise EngineError("cuBLASLt has no algorithm")

    monkeypatch.setattr(gpu_check, "measure_products", broken)
    assert gpu_check.main([*REHEARSAL, "--skip-proof", "--skip-torch", "--cases", "51M", "--out", str(tmp_path)]) == 1
    record = written(tmp_path)
    assert record["errors"] == ["ceilings: EngineError: cuBLASLt has no algorithm"]
    assert [row["status"] for row in record["steps"]] == ["ok"] and record["steps"][0]["torch"] is None
    assert record["ceilings"]["gemm"] == [] and record["kernels"]


def test_by_default_a_rehearsal_is_not_written_among_the_benchmarks(gpu_check):
    assert gpu_check.read_options(REHEARSAL).out.resolve() != gpu_check.BENCHMARKS
    assert gpu_check.read_options([]).out == gpu_check.BENCHMARKS


def test_a_card_without_the_bindings_of_its_products_is_refused_in_words(gpu_check, monkeypatch):
    from gpu import report

    monkeypatch.setitem(sys.modules, "nvmath.bindings", None)
    device = SimpleNamespace(name="cuda", details={})
    with pytest.raises(EngineError, match=r"nvmath-python cannot be imported .*: carry it beside this tool"):
        report.read_versions(device)


def test_without_a_card_it_says_so_in_one_line_and_loads_nothing_it_need_not(tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['gpu_check.py', '--out', {str(tmp_path)!r}]\n"
        f"try: runpy.run_path({str(PROJECT / 'tools' / 'gpu_check.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    names = {'hydra', 'omegaconf', 'rich', 'click', 'wandb', 'requests', 'safetensors', 'yaml', 'jinja2'}\n"
        "    assert not names & {name.split('.')[0] for name in sys.modules}, names & set(sys.modules)\n"
        "    raise\n"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1 and "engine=torch" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_miss_a_part_of_the_band_are_found(gpu_check, monkeypatch):
    from gpu import bands

    shape = {"rows": 8, "n_embd": 32, "bands": (24, 128)}
    found = list(bands.measure_bands(HostDevice(), Precision.fp32, **shape))
    assert {(each["product"], each["tile"]) for each in found} == {
        (f"{name} {product}", tile) for name in ("fc1", "fc2") for product in bands.PRODUCTS for tile in (None, 64)
    }
    assert all(each["error"] == 0 for each in found if each["tile"] is None)
    whole = bands.product_blocks
    monkeypatch.setattr(bands, "product_blocks", lambda *args, **options: whole(*args, **options)[:-1])
    with pytest.raises(EngineError, match=r"banded products: fc1 forward, band 24: error"):
        list(bands.measure_bands(HostDevice(), Precision.fp32, **shape))


def test_equations_are_those_of_the_data(gpu_check):
    from gpu.cases import batches_of, chosen_cases

    whole, part = chosen_cases(["equations"], rehearsal=False)[:2]
    data = read_source(DataConfig(source="modular", prime=97))
    known = {tuple(row) for split in data.splits for row in rows_of(data, split).tolist()}
    for case in (whole, part):
        batches = batches_of(case, 3)
        for inputs, targets in batches:
            assert inputs.shape == (case.batch_size, 8) and {tuple(row) for row in inputs.tolist()} <= known
            np.testing.assert_array_equal(targets[:, :-1], inputs[:, 1:])
    same = batches_of(whole, 2)
    assert same[0][0] is same[1][0] and not same[0][0].flags.writeable
