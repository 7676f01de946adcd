from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from proof import compare
from proofs import bias as proof
from proofs.arrays import Arrays

from gpt2lab.engine.cuda.device.host import HostDevice, KernelFault
from gpt2lab.engine.cuda.device.sources import find_cuda_folder
from gpt2lab.engine.cuda.ops.bias import MAX_CHUNKS, Bias, partials_size, row_blocks, row_chunks
from gpt2lab.schema import Precision


@pytest.mark.parametrize("mode", [{}, {"checked": True}, {"reverse": True}], ids=str)
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_bias_and_its_gradient_agree_with_float64(precision: Precision, mode: dict[str, bool]) -> None:
    checks = list(proof.check(HostDevice(**mode), precision))
    assert [str(check) for check in checks if not check.passed] == []
    assert len(checks) == 7 * len(proof.SHAPES)


def test_bias_in_proof_mode_is_computed_in_float64() -> None:
    assert [str(check) for check in proof.check(HostDevice(float64=True), Precision.fp32) if not check.passed] == []


def test_a_bias_that_begins_between_two_packs_is_read_value_by_value() -> None:
    device = HostDevice(checked=True)
    arrays = Arrays(device, Precision.fp32)
    whole, values = arrays.float(arrays.normal(1 + 20))
    x, before = arrays.act(arrays.normal(3, 20))
    Bias(device, arrays.numerics, n=20, aligned_to=1).forward(x=x, bias=whole[1:])
    assert compare("x", arrays.values(x), before + values[1:], arrays.act_tolerance(1)).passed


def broken(folder: Path, right: str, wrong: str) -> Path:
    """Return a folder with the kernels of bias.cu, `right` in them replaced by `wrong`."""
    source = find_cuda_folder()
    (folder / "common.cuh").write_bytes((source / "common.cuh").read_bytes())
    text = (source / "bias.cu").read_text()
    assert right in text
    (folder / "bias.cu").write_text(text.replace(right, wrong))
    return folder


def test_a_kernel_that_leaves_out_a_row_of_threads_is_noticed(tmp_path: Path) -> None:
    folder = broken(tmp_path, "for (int i = 0; i < height; i++) total", "for (int i = 1; i < height; i++) total")
    failed = [check.name for check in proof.check(HostDevice(folder=folder), Precision.fp32) if not check.passed]
    assert failed and all(name.startswith("bias_backward") for name in failed)


def test_a_kernel_that_reads_past_the_last_row_is_a_fault(tmp_path: Path) -> None:
    folder = broken(tmp_path, "if (row < rows) values[i]", "values[i]")
    with pytest.raises(KernelFault, match=r"bias_forward: .*`x`"):
        list(proof.check(HostDevice(folder=folder, checked=True), Precision.fp32))


def test_a_kernel_without_its_barrier_is_a_fault(tmp_path: Path) -> None:
    folder = broken(tmp_path, "__syncthreads();", "")
    with pytest.raises(KernelFault, match="bias_backward"):
        list(proof.check(HostDevice(folder=folder, checked=True), Precision.fp32))


def test_chunks_cover_all_rows_and_stay_few() -> None:
    for rows in (1, 63, 64, 65, 1000, 16384, 16385, 65536, 10**6):
        rows_per_chunk, chunks = row_chunks(rows)
        assert (chunks - 1) * rows_per_chunk < rows <= chunks * rows_per_chunk and chunks <= MAX_CHUNKS


@settings(deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 9))
@example(20_000, 16_380, 768)
def test_scratch_that_was_planned_is_enough_for_fewer_rows_too(rows: int, others: int, n: int) -> None:
    fewer = min(rows, others)
    assert row_chunks(fewer)[1] * n <= partials_size(rows, n) <= MAX_CHUNKS * n


def test_too_little_scratch_is_refused() -> None:
    arrays = Arrays(HostDevice(), Precision.fp32)
    dy, dbias = arrays.act(arrays.normal(65, 8))[0], arrays.float(arrays.normal(8))[0]
    with pytest.raises(AssertionError, match="scratch of 15 float, 16 needed"):
        Bias(arrays.device, arrays.numerics, n=8).backward(dbias=dbias, dy=dy, partials=arrays.empty_float(15))


def test_a_block_is_a_power_of_two_of_packs_wide() -> None:
    assert [row_blocks(packs) for packs in (1, 2, 3, 5, 31, 32, 33, 96)] == [
        (1, 1), (2, 1), (4, 1), (8, 1), (32, 1), (32, 1), (32, 2), (32, 3),
    ]  # fmt: skip
