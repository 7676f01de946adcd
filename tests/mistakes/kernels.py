"""Mistakes in the CUDA kernels, and in what runs them on a processor."""

from mistakes.mistake import mistake

_ROWS = "test_row_ops.py::test_kernels_equal_float64_on_every_host_device[proofs.{}-{}-fp32]"
_CHECKED = "{'checked': True}"

KERNELS = (
    mistake(
        "AdamW goes uphill",
        "cuda/adamw.cu",
        "p * update.decay - update.step_size * m",
        "p * update.decay + update.step_size * m",
        _ROWS.format("adamw", "{}"),
    ),
    mistake(
        "the band of FC2 ends one hidden unit early",
        "cuda/band.cuh",
        "min(4 * row + half_band + 1, columns)",
        "min(4 * row + half_band, columns)",
        _ROWS.format("grad_norm", "{}"),
    ),
    mistake(
        "the band of a second layer is taken for that of the first",
        "cuda/tensors.cuh",
        "row % tensor.rows",
        "row",
        _ROWS.format("grad_norm", "{}"),
    ),
    mistake(
        "threads write keys while others of the warp still read scores",
        "cuda/attention_short.cu",
        "    __syncwarp();\n",
        "",
        "test_attention.py::test_the_backward_pass_is_the_derivative_of_the_forward_pass[short B3 T8 NH3 HS20]",
    ),
    mistake(
        "a query of a long row does not see its own key",
        "cuda/attention_long.cu",
        "key + x + SIDE * j > t)",
        "key + x + SIDE * j >= t)",
        "test_attention.py::test_the_backward_pass_is_the_derivative_of_the_forward_pass[long B1 T70 NH2 HS20]",
    ),
    mistake(
        "what a tree's query summed is not scaled down when a higher score turns up",
        "cuda/attention_tree.cu",
        "        sum *= correction;\n",
        "",
        "test_tree_attention.py::test_any_tree_is_right",
    ),
    mistake(
        "a pass forgets the loss of the passes before it",
        "cuda/cross_entropy.cu",
        "stats[0] += scale * sum;",
        "stats[0] = scale * sum;",
        _ROWS.format("cross_entropy", "{}"),
    ),
    mistake(
        "the last row of a token is added twice",
        "cuda/embedding.cu",
        "if (i + j * step < end)",
        "if (i + j * step <= end)",
        _ROWS.format("embedding", "{}"),
    ),
    mistake(
        "the slope of GELU has twice the cubic term",
        "cuda/gelu.cu",
        "(1.0f + 3.0f * CUBIC * x * x)",
        "(1.0f + 2.0f * CUBIC * x * x)",
        "test_gelu.py",
    ),
    mistake(
        "layer norm divides its variance by C - 1",
        "cuda/layer_norm.cu",
        "row_sum(squares, per_warp) / C + eps",
        "row_sum(squares, per_warp) / (C - 1) + eps",
        _ROWS.format("layer_norm", "{}"),
    ),
    mistake(
        "the gradient of the first counted position is lost",
        "cuda/positions.cu",
        "if (slot >= 0) {",
        "if (slot > 0) {",
        _ROWS.format("positions", "{}"),
    ),
    mistake(
        "a sum over a row begins before the last one was read",
        "cuda/rows.cuh",
        "    __syncthreads(); // what the last call left has been read\n",
        "",
        _ROWS.format("layer_norm", _CHECKED),
    ),
)

HOST = (
    mistake(
        "threads that never reach a barrier are not noticed",
        "cuda/host/fibers.cpp",
        'if (n_at_barrier) fault(0, "exits while',
        'if (n_at_barrier > MAX_THREADS) fault(0, "exits while',
        "test_cuda_host_checks.py::test_a_fault_names_kernel_thread_argument_and_line",
    ),
    mistake(
        "an access may end behind its argument",
        "cuda/host/memory_checks.cpp",
        "address >= argument.begin && end <= argument.end && argument.begin",
        "address >= argument.begin && address <= argument.end && argument.begin",
        "test_cuda_host_checks.py::test_a_fault_names_kernel_thread_argument_and_line",
    ),
    mistake(
        "a write after another thread's read is no race",
        "cuda/host/memory_checks.cpp",
        "if (conflicts(cell.read)) race",
        "if (false) race",
        "test_cuda_host_checks.py::test_a_fault_names_kernel_thread_argument_and_line",
    ),
    mistake(
        "ties are rounded up to bfloat16",
        "cuda/host/cuda_bf16.h",
        "bits + 0x7fff + (bits >> 16 & 1)",
        "bits + 0x8000",
        "test_cuda_host.py::test_bfloat16_is_rounded_to_nearest_even",
    ),
)

MISTAKES = (*KERNELS, *HOST)
