import itertools

import numpy as np
import pytest
from proofs import gemm as proof
from proofs.arrays import Arrays

from gpt2lab.engine.cuda.device.host import HostDevice, KernelFault
from gpt2lab.engine.cuda.gemm import Epilogue, EpilogueKind, create_gemm
from gpt2lab.engine.cuda.gemm import host as host_gemm
from gpt2lab.engine.cuda.gemm.base import check_epilogue, column_major, overlap
from gpt2lab.engine.cuda.numerics import from_bfloat16
from gpt2lab.schema import Precision

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("precision", list(Precision))
def test_products_agree_with_float64(precision: Precision, checked: bool) -> None:
    checks = list(proof.check(HostDevice(checked=checked), precision))
    assert [str(check) for check in checks if not check.passed] == []
    assert len(checks) > 500


def test_products_in_proof_mode_are_computed_in_float64() -> None:
    assert [str(check) for check in proof.check(HostDevice(float64=True), Precision.fp32) if not check.passed] == []


def test_a_wrong_product_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_gemm, "from_bfloat16", lambda bits: from_bfloat16(bits) * (1 + 2**-6))
    failed = [check.name for check in proof.check(HostDevice(), Precision.bf16) if not check.passed]
    assert any(name.startswith("dense") for name in failed) and any(name.startswith("pointers") for name in failed)


def test_tf32_keeps_ten_bits_of_mantissa_and_rounds_to_nearest_even() -> None:
    ulp = 2.0**-10
    given = np.array([1 + 0.4 * ulp, 1 + 0.5 * ulp, 1 + 1.5 * ulp, -1 - 0.6 * ulp, np.inf, np.nan], dtype=FLOAT)
    expected = np.array([1, 1, 1 + 2 * ulp, -1 - ulp, np.inf, np.nan], dtype=FLOAT)
    assert np.array_equal(host_gemm.round_to_tf32(given), expected, equal_nan=True)


def test_tf32_products_differ_from_fp32_products() -> None:
    device = HostDevice()
    results = []
    for precision in (Precision.fp32, Precision.tf32):
        arrays = Arrays(device, precision)
        (a, _), (b, _), out = arrays.act(arrays.normal(5, 20)), arrays.act(arrays.normal(20, 7)), arrays.empty_act(5, 7)
        proof.open_gemm(device, precision).matmul(out, a, b)
        results.append(arrays.values(out))
    assert not np.array_equal(*results)


def test_the_same_product_has_the_same_bits_at_any_address_and_stride() -> None:
    device, rng = HostDevice(), np.random.default_rng(3)
    arrays = Arrays(device, Precision.fp32)
    gemm = create_gemm(device, Precision.fp32)
    a, b = rng.normal(size=(65, 300)), rng.normal(size=(300, 130))
    found = set()
    for shift in (0, 1, 2, 3, 5):
        padded = np.zeros((65, 300 + 2 * shift))
        padded[:, shift : shift + 300] = a
        out = arrays.empty_act(65, 130)
        gemm.matmul(out, arrays.act(padded)[0][:, shift : shift + 300], arrays.act(b)[0])
        found.add(out.tobytes())
    assert len(found) == 1


def views(device: HostDevice, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    arrays = Arrays(device, Precision.fp32)
    return [arrays.act(np.zeros(shape))[0] for shape in shapes]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((5, 7), (5, 3), (4, 7)), r"a \(5, 3\) @ b \(4, 7\) does not make out \(5, 7\)"),
        (((5, 7), (5, 3), (7, 3)), r"transpose_a=False, transpose_b=False"),
        (((5,), (5, 3), (3, 7)), r"out \(5,\), a \(5, 3\), b \(3, 7\): expected 2 axes each"),
        (((2, 5, 7), (2, 5, 3), (2, 3, 7)), r"expected 2 axes each"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    device = HostDevice()
    with pytest.raises(TypeError, match=message):
        create_gemm(device, Precision.fp32).matmul(*views(device, *shapes))


def test_empty_matrices_are_refused() -> None:
    device = HostDevice()
    out, a, b = views(device, (5, 7), (5, 3), (3, 7))
    for empty in ((out[:0], a[:0], b), (out[:, :0], a, b[:, :0]), (out, a[:, :0], b[:0])):
        with pytest.raises(TypeError, match="does not make out"):
            create_gemm(device, Precision.fp32).matmul(*empty)


def test_layouts_that_a_library_cannot_read_are_refused() -> None:
    device = HostDevice()
    gemm = create_gemm(device, Precision.fp32)
    out, a, b, wide = views(device, (5, 7), (5, 3), (3, 7), (5, 14))
    (a_turned,) = views(device, (3, 5))
    with pytest.raises(TypeError, match="the last axis of a is not contiguous"):
        gemm.matmul(out, a_turned.T, b)
    with pytest.raises(TypeError, match="the last axis of out is not contiguous"):
        gemm.matmul(wide[:, ::2], a, b)
    overlapping = np.lib.stride_tricks.as_strided(a, (5, 3), (8, 4))
    with pytest.raises(TypeError, match=r"rows of a .* overlap"):
        gemm.matmul(out, overlapping, b)


def test_matrices_of_out_that_overlap_are_refused() -> None:
    device = HostDevice()
    gemm = create_gemm(device, Precision.fp32)
    whole, a, b = views(device, (5, 20), (3, 5, 4), (3, 4, 7))
    with pytest.raises(TypeError, match="matrices of outs overlap"):
        gemm.prepare_pointers([whole[:, 0:7], whole[:, 13:20], whole[:, 6:13]], list(a), list(b), table=None)


def test_lists_that_differ_are_refused() -> None:
    device = HostDevice()
    gemm = create_gemm(device, Precision.fp32)
    outs, a, b = (list(x) for x in views(device, (2, 5, 7), (2, 5, 4), (2, 4, 7)))
    with pytest.raises(TypeError, match="2 outs, 1 a, 2 b; expected as many of each"):
        gemm.prepare_pointers(outs, a[:1], b, table=None)
    with pytest.raises(TypeError, match="the views of a differ in shape, strides or dtype"):
        gemm.prepare_pointers(outs, [a[0], a[1][:4]], b, table=None)


def test_dtypes_other_than_those_of_the_precision_are_refused() -> None:
    device = HostDevice()
    out, a, b = views(device, (5, 7), (5, 3), (3, 7))
    half = Arrays(device, Precision.bf16).act(np.zeros((5, 3)))[0]
    with pytest.raises(TypeError, match=r"float32, uint16, float32; expected float32 \(out: or float32\)"):
        create_gemm(device, Precision.fp32).matmul(out, half, b)
    with pytest.raises(TypeError, match=r"expected uint16 \(out: or float32\)"):
        create_gemm(device, Precision.bf16).matmul(out, a, b)


def test_numpy_memory_that_is_not_of_the_device_is_refused() -> None:
    device = HostDevice()
    out, a = views(device, (5, 7), (5, 3))
    with pytest.raises(TypeError, match="gemm: b: expected an array of this device"):
        create_gemm(device, Precision.fp32).matmul(out, a, np.zeros((3, 7), FLOAT))


def test_reading_what_was_never_written_is_a_fault_on_a_checked_device() -> None:
    device = HostDevice(checked=True)
    arrays = Arrays(device, Precision.fp32)
    gemm = create_gemm(device, Precision.fp32)
    out, a, b = views(device, (5, 7), (5, 3), (3, 7))
    with pytest.raises(KernelFault, match="gemm: a: element 0 was never written"):
        gemm.matmul(out, arrays.empty_act(5, 6)[:, 2:5], b)
    with pytest.raises(KernelFault, match="gemm: out"):
        gemm.matmul(arrays.empty_act(5, 7), a, b, accumulate=True)
    fresh = arrays.empty_act(5, 9)
    gemm.matmul(fresh[:, 1:8], a, b)
    device.require_written(fresh[2, 1:8], "out")
    with pytest.raises(KernelFault):
        device.require_written(fresh[2, 1:9], "beside out")


def test_the_host_has_no_epilogues_and_says_so() -> None:
    device = HostDevice()
    gemm = create_gemm(device, Precision.fp32)
    out, a, b, bias = views(device, (5, 7), (5, 3), (3, 7), (7,))
    epilogue = Epilogue(kind=EpilogueKind.bias, bias=bias)
    before = out.copy()
    assert not gemm.matmul(out, a, b, epilogue)
    np.testing.assert_array_equal(out, before)
    assert gemm.matmul(out, a, b)


def test_an_epilogue_with_other_arrays_than_its_kind_takes_is_refused() -> None:
    out, bias, aux = np.zeros((5, 8), FLOAT), np.zeros(8, FLOAT), np.zeros((5, 8), FLOAT)
    check_epilogue(Epilogue(kind=EpilogueKind.bias_gelu, bias=bias, aux=aux), out, accumulate=False)
    for kind, given, message in (
        (EpilogueKind.bias, {}, r"epilogue bias: bias is None, expected \(8,\) float32"),
        (EpilogueKind.bias, {"bias": bias[:7]}, r"bias is \(7,\) float32, expected \(8,\) float32"),
        (EpilogueKind.bias, {"bias": bias.astype(np.uint16)}, r"bias is \(8,\) uint16, expected \(8,\) float32"),
        (EpilogueKind.bias, {"bias": bias, "aux": aux}, r"aux is \(5, 8\) float32, expected None"),
        (EpilogueKind.bias_gelu, {"bias": bias}, r"aux is None, expected \(5, 8\) float32"),
        (EpilogueKind.dgelu, {"aux": aux, "bias": bias}, r"bias is \(8,\) float32, expected None"),
        (EpilogueKind.dgelu, {"aux": aux.repeat(2, axis=1)[:, ::2]}, "the last axis of aux is not contiguous"),
        (EpilogueKind.bias, {"bias": np.zeros(16, FLOAT)[::2]}, "bias is not contiguous"),
    ):
        with pytest.raises(TypeError, match=message):
            check_epilogue(Epilogue(kind=kind, **given), out, accumulate=False)
    with pytest.raises(TypeError, match="cannot accumulate"):
        check_epilogue(Epilogue(kind=EpilogueKind.bias, bias=bias), out, accumulate=True)


def test_overlap_agrees_with_marking_every_element() -> None:
    for rows, columns, leading, distance in itertools.product((1, 2, 3), (1, 2, 4), (4, 5, 7), range(25)):
        first = {r * leading + c for r in range(rows) for c in range(columns)}
        meets = bool(first & {index + distance for index in first})
        assert overlap(np.array([distance]), rows, columns, leading) == meets, (rows, columns, leading, distance)


def test_one_row_or_one_column_may_have_any_stride() -> None:
    row, column = np.zeros((9, 5), FLOAT)[:1], np.zeros((5, 9), FLOAT)[:, :1]
    product = column_major(np.zeros((1, 1), FLOAT), row, column)
    assert (product.m, product.n, product.k, product.lda, product.ldb, product.ldc) == (1, 1, 5, 9, 5, 1)
