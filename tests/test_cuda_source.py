"""Declarations of kernels are read from their source, and launches are checked against them."""

from pathlib import Path

import numpy as np
import pytest

from gpt2lab.engine.cuda.device.sources import (
    Parameter,
    Signature,
    constant,
    find_cuda_folder,
    launch_shape,
    parse_kernels,
    read_sources,
)
from gpt2lab.errors import EngineError, InternalError

SOURCE = """
// extern "C" __global__ void in_a_comment(int n) {}
/* __global__ */
#define THREADS (4 * 64)
extern "C" __global__ void __launch_bounds__(max(32, THREADS), 2) rows_forward(
    act_t *__restrict__ out, const float *__restrict__ weight,  // (C)
    const int *tokens, long long *counts, const act_t* x, int n_rows, long long n_values, float scale) {
}
extern "C" __global__ __launch_bounds__(64) void rows_backward(float *dweight) {}
extern "C" __global__ void nothing() {}
"""


def test_declarations_are_read_from_the_source() -> None:
    kernels = parse_kernels(SOURCE)
    assert list(kernels) == ["rows_forward", "rows_backward", "nothing"]
    assert kernels["rows_forward"].parameters == (
        Parameter("out", "act_t", True, False),
        Parameter("weight", "float", True, True),
        Parameter("tokens", "int", True, True),
        Parameter("counts", "long long", True, False),
        Parameter("x", "act_t", True, True),
        Parameter("n_rows", "int", False, False),
        Parameter("n_values", "long long", False, False),
        Parameter("scale", "float", False, False),
    )
    assert [k.launch_bounds for k in kernels.values()] == ["max(32, THREADS)", "64", "1024"]
    assert kernels["nothing"].parameters == ()


@pytest.mark.parametrize(
    "parameter", ["double *x", "float **x", "unsigned n", "float &x", "Pack<float, 4> *x", "float x[4]"]
)
def test_a_parameter_of_another_type_is_refused(parameter: str) -> None:
    with pytest.raises(
        InternalError, match=r"bad: parameter `.*`: expected act_t, float, int or long long, or a pointer"
    ):
        parse_kernels(f'extern "C" __global__ void bad({parameter}) {{}}')


def test_a_kernel_that_cannot_be_read_is_not_overlooked() -> None:
    with pytest.raises(InternalError, match="2 kernels, of which only nothing could be read"):
        parse_kernels('extern "C" __global__ void nothing() {}\ntemplate <int N> __global__ void other() {}')


@pytest.fixture
def forward() -> Signature:
    """The signature of rows_forward in bf16."""
    kernel = parse_kernels(SOURCE)["rows_forward"]
    return Signature(kernel, float_dtype=np.dtype(np.float32), defines={"ACT_BF16": 1})


def arguments(**changed: object) -> dict[str, object]:
    right = {
        "out": np.zeros((2, 3), np.uint16),
        "weight": np.zeros(3, np.float32),
        "tokens": None,
        "counts": np.zeros(1, np.int64),
        "x": np.zeros(6, np.uint16),
        "n_rows": 2,
        "n_values": 2**40,
        "scale": 0.1,
    }
    return right | changed


def test_arguments_are_put_in_order_and_cast(forward: Signature) -> None:
    given = dict(reversed(arguments(scale=np.float64(0.1)).items()))
    bound = forward.bind(given)
    assert bound[0] is given["out"] and bound[2] is None
    assert [type(value) for value in bound[5:]] == [np.int32, np.int64, np.float32]
    assert bound[5:] == [2, 2**40, np.float32(0.1)]
    assert forward.bind(arguments(scale=3))[7] == 3
    assert np.isinf(forward.bind(arguments(scale=float("inf")))[7])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": np.zeros(6, np.float32)}, r"`out`: expected an array of uint16 \(act_t \*\), got float32"),
        ({"weight": np.zeros(3)}, r"`weight`: expected an array of float32 \(float \*\), got float64"),
        ({"counts": np.zeros(1, np.int32)}, r"`counts`: expected an array of int64 \(long long \*\), got int32"),
        ({"x": np.zeros((3, 4), np.uint16).T}, "`x`: the array must be contiguous"),
        ({"x": [1, 2]}, "`x`: expected an array of uint16, got list"),
        ({"x": 5}, "`x`: expected an array of uint16, got int"),
        ({"n_rows": 2**31}, "`n_rows`: 2147483648 does not fit into int"),
        ({"n_rows": -(2**31) - 1}, "`n_rows`: -2147483649 does not fit into int"),
        ({"n_values": 2**63}, "`n_values`: 9223372036854775808 does not fit into long long"),
        ({"n_rows": 2.0}, r"`n_rows`: expected a whole number \(int\), got float"),
        ({"n_rows": True}, r"`n_rows`: expected a whole number \(int\), got bool"),
        ({"n_rows": None}, r"`n_rows`: expected a whole number \(int\), got NoneType"),
        ({"scale": "1"}, r"`scale`: expected a number \(float\), got str"),
        ({"scale": 1e39}, "`scale`: 1e.39 is too large for float32"),
        ({"scale": np.zeros(1, np.float32)}, r"`scale`: expected a number \(float\), got ndarray"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(forward: Signature, changed: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=f"rows_forward: {message}"):
        forward.bind(arguments(**changed))


def test_missing_and_unknown_arguments_are_named(forward: Signature) -> None:
    given = arguments()
    del given["n_rows"]
    with pytest.raises(TypeError, match="rows_forward: missing n_rows; it takes out, weight, "):
        forward.bind(given)
    with pytest.raises(TypeError, match="rows_forward: unknown n_row; it takes out, weight, "):
        forward.bind(arguments(n_row=2))


def test_grid_and_block_are_checked_before_the_launch() -> None:
    assert launch_shape("k", 5, (32, 4), 128) == ((5, 1, 1), (32, 4, 1))
    for grid, block, message in (
        (0, 32, "k: grid 0 cannot be launched"),
        ((1, 65536), 32, "k: grid .* cannot be launched"),
        (1, (1, 1, 65), "k: block .* cannot be launched"),
        ((1, 1, 1, 1), 1, "k: grid .* cannot be launched"),
        (1, (32, 5), "k: a block of 160 threads; its launch bounds allow 128"),
    ):
        with pytest.raises(InternalError, match=message):
            launch_shape("k", grid, block, 128)


def test_headers_are_found_through_headers(tmp_path: Path) -> None:
    (tmp_path / "op.cu").write_text('#include <cuda_bf16.h>\n#include "a.cuh"\n')
    (tmp_path / "a.cuh").write_text('  # include "b.cuh"\n')
    (tmp_path / "b.cuh").write_text('#pragma once\n#include "a.cuh"\n')
    assert list(read_sources(tmp_path, "op.cu")) == ["op.cu", "a.cuh", "b.cuh"]
    (tmp_path / "b.cuh").unlink()
    with pytest.raises(EngineError, match=r"b\.cuh: cannot be read: No such file"):
        read_sources(tmp_path, "op.cu")


def test_every_kernel_of_the_project_can_be_read() -> None:
    for path in find_cuda_folder().glob("*.cu"):
        assert parse_kernels(path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize(
    ("file", "name", "defines", "value"),
    [
        ("bias.cu", "THREADS", {}, 256),
        ("bias.cu", "WARP", {}, 32),  # in a header
        ("band.cuh", "FC2_BAND", {}, 2),
        ("attention_long.cu", "THREADS", {}, 64),  # a product, in a header
        ("attention_long.cu", "FORWARD_ROWS", {"HEAD_SIZE": 64}, 8),
        ("attention_long.cu", "FORWARD_ROWS", {"HEAD_SIZE": 128}, 4),
        ("attention_long.cu", "BACKWARD_ROWS", {"HEAD_SIZE": 129}, 1),  # by way of two others
    ],
)
def test_what_a_launch_must_know_of_a_kernel_is_read_from_its_file(file, name, defines, value):
    assert constant(file, name, **defines) == value


def test_a_constant_that_is_not_there_is_named():
    with pytest.raises(InternalError, match=r"cuda/bias\.cu: 0 definitions of TREADS, expected one"):
        constant("bias.cu", "TREADS")
