from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs import banded_linear as proof
from proofs.arrays import Arrays

from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.ops import banded_linear
from gpt2lab.engine.cuda.ops.banded_linear import PointerTables, product_blocks
from gpt2lab.model import band_tiles
from gpt2lab.schema import Precision

FEW = proof.CASES[::3]


def failures(device: HostDevice, precision: Precision, cases: list[proof.Case]) -> list[str]:
    checks = list(proof.check(device, precision, cases))
    assert len(checks) == proof.checks_per_case() * len(cases)
    return [str(check) for check in checks if not check.passed]


@pytest.mark.parametrize(
    "precision", [Precision.fp32, Precision.tf32, pytest.param(Precision.bf16, marks=pytest.mark.slow)]
)
def test_a_banded_layer_agrees_with_a_masked_one_in_float64(precision: Precision) -> None:
    cases = [*proof.CASES, proof.LARGE] if precision is Precision.bf16 else proof.CASES
    assert failures(HostDevice(), precision, cases) == []


@pytest.mark.parametrize("mode", [{"checked": True}, {"reverse": True}], ids=str)
@pytest.mark.parametrize(
    "precision",
    [Precision.tf32, *(pytest.param(each, marks=pytest.mark.slow) for each in (Precision.fp32, Precision.bf16))],
)
def test_every_access_of_a_banded_layer_is_in_bounds_and_in_any_order(
    precision: Precision, mode: dict[str, bool]
) -> None:
    assert failures(HostDevice(**mode), precision, FEW) == []


def test_a_banded_layer_in_proof_mode_is_computed_in_float64() -> None:
    assert failures(HostDevice(float64=True), Precision.fp32, FEW) == []


@settings(max_examples=40)
@given(
    n_embd=st.sampled_from([1, 4, 20, 24]),  # few kernels to compile
    band=st.integers(1, 120),
    tile=st.integers(1, 100),
    rows=st.integers(1, 70),
)
def test_any_band_with_any_tile_agrees_with_the_masked_layer(n_embd: int, band: int, tile: int, rows: int) -> None:
    assert failures(HostDevice(), Precision.fp32, [proof.Case(n_embd, band, tile, rows)]) == []


def without_the_last(blocks: Callable) -> Callable:
    return lambda *sizes: blocks(*sizes)[:-1] or blocks(*sizes)


def with_narrower_windows(blocks: Callable) -> Callable:
    def narrower(n_embd: int, band: int, *sizes: int) -> list:
        return blocks(n_embd, band - 40, *sizes)

    return narrower


@pytest.mark.parametrize("mistake", [without_the_last, with_narrower_windows])
@pytest.mark.parametrize("kind", ["hidden_blocks", "channel_blocks"])
def test_weights_that_no_block_holds_are_noticed(kind: str, mistake: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banded_linear, kind, mistake(getattr(band_tiles, kind)))
    failed = failures(HostDevice(), Precision.fp32, [proof.Case(48, 64, 64, 5)])
    products = {text.split()[0] for text in failed}
    assert "forward" in products and "backward_input" in products
    assert ("backward_weight" in products) == (kind == "hidden_blocks")


def test_a_dense_product_beside_banded_ones_is_the_librarys() -> None:
    arrays = Arrays(HostDevice(), Precision.fp32)
    gemm = proof.open_gemm(arrays.device, Precision.fp32)
    case = proof.Case(20, 7, 16, 5)
    weight = arrays.act(arrays.normal(80, 20))[0]  # not masked: only a dense product sees all of it
    dy, dx = arrays.act(arrays.normal(5, 80)), arrays.empty_act(5, 20)
    proof.layer(arrays, gemm, "fc1", case, {"forward": 16, "weight": 16}).backward_input(dx=dx, dy=dy[0], weight=weight)
    np.testing.assert_allclose(arrays.values(dx), dy[1] @ arrays.values(weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("product", banded_linear.PRODUCTS)
@pytest.mark.parametrize("name", ["fc1", "fc2"])
def test_blocks_begin_where_tensor_cores_can_read_and_sums_are_whole_reads_long(name: str, product: str) -> None:
    for n_embd, band, tile in ((32, 7, 64), (768, 256, 192), (768, 250, 128), (1600, 333, 64), (64, 2, 64)):
        blocks = product_blocks(name, product, n_embd=n_embd, band=band, tile=tile, align=8)
        edges = {
            edge for block in blocks for side in (block.hidden, block.channels) for edge in (side.start, side.stop)
        }
        assert {edge % 8 for edge in edges} == {0}


def test_a_matrix_without_a_band_has_no_blocks() -> None:
    with pytest.raises(AssertionError, match="fc2 has no band"):
        product_blocks("fc2", "forward", n_embd=20, band=0, tile=8, align=1)


def test_more_sets_of_arrays_than_planned_are_noticed() -> None:
    tables = PointerTables(np.zeros(7, dtype=np.int64))
    assert len(tables.take(6)) == 6
    with pytest.raises(AssertionError, match="pointer tables: 9 entries, planned 7"):
        tables.take(3)
