"""The calls that go to cuBLAS and cuBLASLt, executed by numpy (fake_cublas.py) on the numbers that they carry."""

import gc
import itertools
import sys
import types
from dataclasses import replace

import fake_cublas
import numpy as np
import proofs.banded_linear
import proofs.gemm
import proofs.linear
import pytest
from fake_cublas import DeviceArray, FakeCublas, FakeCublasLt, FakeDevice
from proof import compare, tolerance
from tiny_models import CUDA_ON_HOST, config, random_params, spec_for, tokens_for

from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.engine.cuda.gemm import Epilogue, EpilogueKind
from gpt2lab.engine.cuda.gemm.base import pointer_table_size
from gpt2lab.engine.cuda.gemm.cublas import WORKSPACE_BYTES, CublasGemm, open_cublas
from gpt2lab.engine.cuda.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.engine.cuda.ops.banded_linear import DENSE
from gpt2lab.errors import EngineError
from gpt2lab.model.band_tiles import ProductTiles
from gpt2lab.schema import Precision

FLOAT = np.dtype(np.float32)
BF16 = np.dtype(np.uint16)
TRANSPOSES = list(itertools.product((False, True), repeat=2))


class Setup:
    """A CublasGemm over the fake libraries, and arrays for it."""

    def __init__(self, precision: Precision, **lt_options: object) -> None:
        self.numerics = Numerics(precision, FLOAT)
        self.blas, self.lt = FakeCublas(), FakeCublasLt(**lt_options)
        self.gemm = CublasGemm(FakeDevice(), self.numerics, blas=self.blas, lt=self.lt)
        self.gemm.set_workspace(aligned(WORKSPACE_BYTES))
        self.rng = np.random.default_rng(5)

    def random(self, *shape: int, dtype: np.dtype | None = None) -> DeviceArray:
        """Small whole numbers, so that products and sums are exact in every precision; aligned to 256 bytes."""
        values = self.rng.integers(-3, 4, shape).astype(np.float32)
        bits = to_bfloat16(values) if (dtype or self.numerics.act_dtype) == BF16 else values
        array = aligned(bits.nbytes).view(bits.dtype).reshape(shape)
        array[...] = bits
        return array


def aligned(n_bytes: int) -> DeviceArray:
    buffer = np.zeros(n_bytes + 256, dtype=np.uint8)
    start = -buffer.ctypes.data % 256
    return buffer[start : start + n_bytes].view(DeviceArray)


def values(x: np.ndarray) -> np.ndarray:
    return from_bfloat16(np.asarray(x)) if x.dtype == BF16 else np.asarray(x)


def operand(setup: Setup, rows: int, columns: int, transposed: bool, extra: int) -> tuple[DeviceArray, np.ndarray]:
    """Return a matrix that op() turns into (rows, columns), `extra` values between its rows, and what op() gives."""
    shape = (columns, rows) if transposed else (rows, columns)
    stored = setup.random(shape[0], shape[1] + extra)[:, : shape[1]]
    return stored, values(stored).T if transposed else values(stored)


@pytest.mark.parametrize("precision", list(Precision))
def test_matmul_in_column_major_order_is_the_row_major_product(precision: Precision) -> None:
    setup = Setup(precision)
    shapes = [(5, 7, 3), (1, 8, 4), (6, 1, 5), (4, 3, 1), (1, 1, 1), (33, 20, 48)]
    outs = {setup.numerics.act_dtype, FLOAT}
    for (m, n, k), (ta, tb), extra, accumulate, dtype in itertools.product(
        shapes, TRANSPOSES, (0, 3), (False, True), outs
    ):
        a, left = operand(setup, m, k, ta, extra)
        b, right = operand(setup, k, n, tb, 2 * extra)
        whole = setup.random(m, n + extra, dtype=dtype)
        out, beside = whole[:, :n], whole[:, n:].copy()
        expected = left @ right + (values(out) if accumulate else 0)
        setup.gemm.matmul(out, a, b, transpose_a=ta, transpose_b=tb, accumulate=accumulate)
        assert np.array_equal(values(out), expected), (m, n, k, ta, tb, extra, accumulate, dtype)
        assert np.array_equal(whole[:, n:], beside)


@pytest.mark.parametrize("precision", list(Precision))
def test_lists_of_pointers_are_the_row_major_products(precision: Precision) -> None:
    setup = Setup(precision)
    n_batch, m, n, k = 3, 5, 4, 6
    for (ta, tb), accumulate in itertools.product(TRANSPOSES, (False, True)):
        a_shape, b_shape = (k, m) if ta else (m, k), (n, k) if tb else (k, n)
        wide_a, wide_b = (setup.random(rows, columns + 2 * n_batch) for rows, columns in (a_shape, b_shape))
        forms = {
            "apart": (list(setup.random(n_batch, *a_shape)), list(setup.random(n_batch, *b_shape))),
            "the same matrix": ([setup.random(*a_shape)] * n_batch, [setup.random(*b_shape)] * n_batch),
            "overlapping windows": (
                [wide_a[:, 2 * i : 2 * i + a_shape[1]] for i in range(n_batch)],
                [wide_b[:, 2 * i : 2 * i + b_shape[1]] for i in range(n_batch)],
            ),
        }
        for form, (a, b) in forms.items():
            # Heads side by side in one row, and matrices one behind the other.
            beside = setup.random(m, n_batch, n, dtype=FLOAT).transpose(1, 0, 2)
            for out in (beside, setup.random(n_batch, m, n)):
                start = values(out).copy()
                left, right = ([values(x).T if turned else values(x) for x in xs] for xs, turned in ((a, ta), (b, tb)))
                expected = np.stack([x @ y for x, y in zip(left, right, strict=True)]) + (start if accumulate else 0)
                options = {"transpose_a": ta, "transpose_b": tb, "accumulate": accumulate}
                table = np.zeros(pointer_table_size(n_batch), dtype=np.int64).view(DeviceArray)
                multiply = setup.gemm.prepare_pointers(list(out), a, b, table=table, **options)
                assert np.array_equal(values(out), start)
                multiply()
                assert np.array_equal(values(out), expected), (form, options)


@pytest.mark.parametrize(
    ("precision", "first", "k", "batches"),
    [
        (Precision.bf16, 8, 16, 1),
        (Precision.bf16, 4, 16, 0),
        (Precision.bf16, 8, 5, 1),
        (Precision.bf16, 2, 6, 0),
        (Precision.bf16, 1, 5, 0),
        (Precision.tf32, 4, 6, 1),
        (Precision.tf32, 2, 4, 0),
        (Precision.tf32, 1, 6, 0),
        (Precision.fp32, 1, 4, 1),
    ],
)
def test_operands_that_begin_between_the_reads_of_tensor_cores_are_multiplied_one_by_one(
    precision: Precision, first: int, k: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, calls = Setup(precision), []
    batched = setup.blas.gemm_batched_ex
    monkeypatch.setattr(setup.blas, "gemm_batched_ex", lambda *arguments: (calls.append(1), batched(*arguments)))
    wide = setup.random(5, 40)
    a = [wide[:, :k], wide[:, first : first + k]]
    b, out = ([setup.random(*shape) for _ in range(2)] for shape in ((k, 4), (5, 4)))
    table = np.zeros(pointer_table_size(2), dtype=np.int64).view(DeviceArray)
    setup.gemm.prepare_pointers(out, a, b, table=table)()
    for i in range(2):
        assert np.array_equal(values(out[i]), values(a[i]) @ values(b[i]))
    assert len(calls) == batches


@pytest.mark.parametrize("precision", list(Precision))
def test_epilogues_get_the_bias_and_the_pre_activation_of_this_call(precision: Precision) -> None:
    setup = Setup(precision)
    rounding = {"atol": 1e-5} if precision is not Precision.bf16 else {"rtol": 2**-8, "atol": 1e-3}
    kept = []
    for _ in range(2):  # the second round runs on other addresses with what the first one prepared
        x, weight = setup.random(5, 6), setup.random(16, 6)
        bias, pre, out = setup.random(16), setup.random(5, 16), setup.random(5, 16)
        kept += [bias, pre]
        product = values(x) @ values(weight).T + values(bias)

        plain = Epilogue(kind=EpilogueKind.bias, bias=bias)
        assert setup.gemm.matmul(out, x, weight, plain, transpose_b=True)
        assert np.array_equal(values(out), product)

        with_gelu = Epilogue(kind=EpilogueKind.bias_gelu, bias=bias, aux=pre)
        # In float the library's tanh may be no match for our kernel's.
        has_gelu = precision is Precision.bf16
        assert setup.gemm.matmul(out, x, weight, with_gelu, transpose_b=True) == has_gelu
        if not has_gelu:
            assert np.array_equal(values(out), product)
            continue
        assert np.array_equal(values(pre), product)
        np.testing.assert_allclose(values(out), fake_cublas.gelu(product), **rounding)

        dy, w2, dx = setup.random(5, 6), setup.random(6, 16), setup.random(5, 16)
        dgelu = Epilogue(kind=EpilogueKind.dgelu, aux=pre)
        assert setup.gemm.matmul(dx, dy, w2, dgelu)
        expected = (values(dy) @ values(w2)) * fake_cublas.gelu_derivative(values(pre))
        np.testing.assert_allclose(values(dx), expected, **rounding)
    assert len(setup.lt.calls) == (3 if has_gelu else 1)


def test_an_epilogue_that_the_library_lacks_is_answered_with_no() -> None:
    setup = Setup(Precision.bf16, refuses=(fake_cublas.Epilogue.DGELU,))
    dx, dy, weight = setup.random(5, 16), setup.random(5, 6), setup.random(6, 16)
    epilogue = Epilogue(kind=EpilogueKind.dgelu, aux=setup.random(5, 16))
    before = dx.copy()
    assert not setup.gemm.matmul(dx, dy, weight, epilogue)
    assert np.array_equal(dx, before) and not setup.lt.run


def test_rows_of_aux_that_are_no_multiple_of_eight_values_apart_are_answered_with_no() -> None:
    setup = Setup(Precision.bf16)
    epilogue = Epilogue(kind=EpilogueKind.dgelu, aux=setup.random(5, 12))
    assert not setup.gemm.matmul(setup.random(5, 12), setup.random(5, 6), setup.random(6, 12), epilogue)
    assert "heuristic" not in setup.lt.calls


def test_an_algorithm_is_chosen_once_for_each_shape_dtype_and_alignment() -> None:
    setup = Setup(Precision.bf16)
    block = aligned(4096).view(np.uint16).view(DeviceArray)

    def matrix(first: int) -> DeviceArray:
        return block[first : first + 64].reshape(8, 8)

    def chosen(out: DeviceArray, a: DeviceArray, b: DeviceArray, **options: bool) -> int:
        before = len(setup.lt.calls)
        setup.gemm.matmul(out, a, b, **options)
        return len(setup.lt.calls) - before

    assert chosen(matrix(0), matrix(128), matrix(256)) == 1
    assert chosen(matrix(0), matrix(128), matrix(256), accumulate=True) == 0
    assert chosen(matrix(512), matrix(640), matrix(768)) == 0
    assert chosen(matrix(0), matrix(128), matrix(256 + 4)) == 1  # aligned to 8 bytes only
    assert chosen(matrix(0), matrix(128), matrix(256), transpose_b=True) == 1
    assert chosen(np.zeros((8, 8), np.float32).view(DeviceArray), matrix(128), matrix(256)) == 1


def test_the_libraries_are_set_up_for_float_sums_on_our_stream_in_our_workspace() -> None:
    for precision, compute_type in ((Precision.fp32, 68), (Precision.tf32, 77), (Precision.bf16, 68)):
        setup = Setup(precision)
        setup.gemm.matmul(setup.random(2, 2), setup.random(2, 2), setup.random(2, 2))
        assert setup.blas.calls == []  # a handle takes memory: none is made before it is needed
        table = np.zeros(pointer_table_size(2), dtype=np.int64).view(DeviceArray)
        setup.gemm.prepare_pointers(*(list(setup.random(2, 8, 8)) for _ in range(3)), table=table)()
        assert setup.blas.calls == ["set_math_mode 16", "set_stream", "set_workspace"]
        assert setup.lt.compute_types == setup.blas.compute_types == {compute_type}
        blas, lt = setup.blas, setup.lt
        del setup
        gc.collect()
        assert len(blas.destroyed) == len(lt.destroyed) == 1


def test_what_cublaslt_has_no_algorithm_for_is_left_to_cublas() -> None:
    setup = Setup(Precision.bf16, refuses=(None,))
    out, a, b = setup.random(5, 7), setup.random(5, 3), setup.random(3, 7)
    setup.gemm.matmul(out, a, b)
    assert np.array_equal(values(out), values(a) @ values(b))
    assert setup.blas.compute_types == {68} and not setup.lt.run


def test_the_end_of_a_product_is_as_aligned_as_the_least_aligned_array_there() -> None:
    setup = Setup(Precision.bf16)
    out, x, weight = setup.random(8, 16), setup.random(8, 8), setup.random(16, 8)
    bias = aligned(256).view(np.uint16).view(DeviceArray)[1:17]  # at a multiple of 2 bytes, as in the flat buffer
    setup.gemm.matmul(out, x, weight, Epilogue(kind=EpilogueKind.bias, bias=bias), transpose_b=True)
    attribute = fake_cublas.MatmulPreferenceAttribute
    asked = setup.lt.preferences[-1]
    assert asked[attribute.MIN_ALIGNMENT_C_BYTES] == asked[attribute.MIN_ALIGNMENT_D_BYTES] == 2
    assert asked[attribute.MIN_ALIGNMENT_A_BYTES] == 256


def test_a_product_before_set_workspace_is_refused() -> None:
    gemm = CublasGemm(FakeDevice(), Numerics(Precision.fp32, FLOAT), blas=FakeCublas(), lt=FakeCublasLt())
    x = np.zeros((2, 2), np.float32).view(DeviceArray)
    with pytest.raises(AssertionError, match="set_workspace comes before"):
        gemm.matmul(x, x, x)


def test_without_the_bindings_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvmath.bindings", None)
    with pytest.raises(EngineError, match=r"nvmath-python cannot be imported .*gpt2lab\[cuda13\].*engine=torch"):
        open_cublas(FakeDevice(), Numerics(Precision.fp32, FLOAT))


def test_without_the_libraries_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLibrary(FakeCublasLt):
        def create(self) -> int:
            raise RuntimeError("libcublasLt.so was not found\nin one place\nor another")

    class Bindings(types.ModuleType):
        cublas, cublasLt = FakeCublas(), NoLibrary()  # noqa: N815 (the binding's name)

    for name in ("nvmath", "nvmath.bindings"):
        monkeypatch.setitem(sys.modules, name, Bindings(name))
    with pytest.raises(EngineError, match="does not start") as error:
        open_cublas(FakeDevice(), Numerics(Precision.fp32, FLOAT))
    assert "(libcublasLt.so was not found)" in str(error.value) and "\n" not in str(error.value)


class CardlikeHost(HostDevice):
    """The host device with arrays that have the addresses of CuPy arrays, for products by the fake libraries."""

    stream_pointer = fake_cublas.STREAM

    def empty(self, n_bytes: int) -> DeviceArray:
        return super().empty(n_bytes).view(DeviceArray)

    def download(self, source: DeviceArray) -> np.ndarray:
        assert source.flags.c_contiguous  # as a copy from a card must be
        return super().download(source).view(np.ndarray)


@pytest.mark.parametrize("refuses", [(), tuple(fake_cublas.Epilogue)], ids=["all epilogues", "no epilogue"])
@pytest.mark.parametrize("precision", list(Precision))
def test_every_proof_of_products_and_layers_holds_through_the_calls_of_cublas(
    precision: Precision, refuses: tuple[fake_cublas.Epilogue, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lt = FakeCublasLt(refuses)

    def create(device: CardlikeHost, precision: Precision) -> CublasGemm:
        return CublasGemm(device, Numerics.of(device, precision), blas=FakeCublas(), lt=lt)

    monkeypatch.setattr(proofs.gemm, "create_gemm", create)
    banded = proofs.banded_linear.check(CardlikeHost(), precision, proofs.banded_linear.CASES[::3])
    checks = [*proofs.gemm.check(CardlikeHost(), precision), *proofs.linear.check(CardlikeHost(), precision), *banded]
    assert [str(check) for check in checks if not check.passed] == []
    used = {operation.get(fake_cublas.MatmulDescAttribute.EPILOGUE) for operation in lt.run} - {None}
    with_gelu = {164, 192} if precision is Precision.bf16 else set()
    assert used == (set() if refuses else {4} | with_gelu)


@pytest.mark.parametrize("tiles", [DENSE, {"fc1": {"forward": 16, "input": 24, "weight": 20}, "fc2": {"input": 8}}])
@pytest.mark.parametrize("precision", list(Precision))
def test_a_banded_step_through_the_calls_of_cublas_is_that_of_the_host(
    precision: Precision, tiles: ProductTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = config(n_embd=24, fc1_band=9, fc2_band=24)
    spec = spec_for(model, None, replace(CUDA_ON_HOST, precision=precision), micro_batch_size=2)
    expected = CudaEngine(spec, random_params(model, std=0.05), mlp_tiles=tiles)

    def create(device: CardlikeHost, precision: Precision) -> CublasGemm:
        return CublasGemm(device, Numerics.of(device, precision), blas=FakeCublas(), lt=FakeCublasLt())

    monkeypatch.setattr("gpt2lab.engine.cuda.engine.create_gemm", create)
    found = CudaEngine(spec, random_params(model, std=0.05), CardlikeHost(), mlp_tiles=tiles)
    limit = (2 * model.n_layer + 1) * tolerance(terms=model.n_hidden, store=precision.name, roundings=4)
    for _ in range(2):
        (loss, gradients), (wanted, others) = (e.loss_and_gradients(*tokens_for(model)) for e in (found, expected))
        assert loss == pytest.approx(wanted, rel=limit)
        for name in ("wte", "ln2w", "fcw", "fcb", "fcprojw", "fcprojb"):
            check = compare(name, gradients[name], others[name].astype(np.float64), limit)
            assert check.passed, check
