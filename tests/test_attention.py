import numpy as np
import pytest
from host_kernels import device_with_change
from proofs import attention
from proofs.attention import Bench, Case, split_parts

from gpt2lab.engine.cuda.device.host import HostDevice, KernelFault
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.attention import Attention
from gpt2lab.errors import EngineError
from gpt2lab.schema import Precision

LONG = Case(B=1, T=70, NH=2, HS=20)  # several tiles in every kernel for long rows
SHORT = Case(B=3, T=8, NH=3, HS=20)
CHOSEN_SHORT = Case(B=9, T=8, NH=3, HS=20, positions=(1, 4))
CHOSEN = Case(B=2, T=70, NH=2, HS=20, positions=tuple(range(2, 70, 3)))


BOTH = (Precision.fp32, Precision.bf16)


def failed(checks) -> list[str]:
    return [str(check) for check in checks if not check.passed]


# Heads of 20 and 64 channels, which share what is compiled: short and long rows, every position or chosen ones.
FEW = [case for case in attention.CASES if case.HS in (20, 64) and (case.positions is None or case.T > 32)]
MODES = [
    pytest.param({"checked": True}, Precision.fp32, FEW, marks=pytest.mark.slow),
    pytest.param({}, Precision.bf16, FEW, marks=pytest.mark.slow),
    pytest.param({"float64": True}, Precision.fp32, FEW, marks=pytest.mark.slow),
    *(pytest.param({"checked": True}, precision, attention.CASES, marks=pytest.mark.slow) for precision in BOTH),
    *(pytest.param({}, precision, attention.CASES, marks=pytest.mark.slow) for precision in BOTH),
    *(pytest.param({"reverse": True}, precision, attention.CASES, marks=pytest.mark.slow) for precision in BOTH),
    pytest.param({"float64": True}, Precision.fp32, attention.CASES, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("mode", "precision", "cases"), MODES)
def test_attention_is_that_of_the_reference(mode, precision, cases):
    checks = list(attention.check(HostDevice(**mode), precision, cases))
    assert len(checks) > 7 * len(cases)
    assert failed(checks) == []


@pytest.mark.parametrize(
    "case", [LONG, SHORT, CHOSEN, CHOSEN_SHORT, Case(B=1, T=11, NH=1, HS=130, longest_short=0)], ids=str
)
def test_the_backward_pass_is_the_derivative_of_the_forward_pass(case):
    bench = Bench(HostDevice(float64=True), Precision.fp32, case)
    qkv, dout = bench.inputs()
    gradient = bench.backward(dout, *bench.forward(qkv), qkv)
    rng, step = np.random.default_rng(1), 1e-5
    for _ in range(4):
        direction = rng.standard_normal(qkv.shape)
        up, down = ((bench.forward(qkv + sign * step * direction)[0] * dout).sum() for sign in (1, -1))
        slope = sum((part * d).sum() for part, d in zip(gradient, split_parts(direction, case), strict=True))
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "right", "wrong"),
    [
        (SHORT, "j + i <= t ? scale", "j + i <= t + 1 ? scale"),
        (SHORT, "(dp[i] - delta)", "dp[i]"),
        (LONG, "SIDE * j > t) p", "SIDE * j > t + 1) p"),
        (LONG, "sum[i] *= correction;", ""),
        (LONG, "(ds[i][j] - row_delta[i])", "ds[i][j]"),
        (LONG, "? 0 : first;", "? 0 : first + TILE;"),
        (CHOSEN_SHORT, "? positions[query] : query", "? query : query"),
        (CHOSEN_SHORT, "? positions[t] : t", "? t : t"),
        (CHOSEN, "? positions[min(i, n - 1)] : i", "? i : i"),
        (CHOSEN, "query + TILE - 1, n) < first)", "query, n) < first)"),
    ],
)
def test_a_wrong_kernel_is_found_out(tmp_path, case, right, wrong):
    bench = Bench(device_with_change(tmp_path, f"attention_{case.kernels}.cu", right, wrong), Precision.bf16, case)
    assert failed(attention.check_case(bench)) != []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "barrier"),
    [
        (SHORT, "    __syncwarp();\n    if (active && t < T)"),
        (LONG, "        __syncwarp();\n        share_weights(weights, ds)"),
        (LONG, "        __syncthreads();\n\n        float p[R][R]"),
        (LONG, "        __syncthreads();\n        load_tile<KEYS>"),
    ],
)
def test_a_missing_barrier_is_found_out(tmp_path, case, barrier):
    without = barrier.replace("__syncwarp();", "").replace("__syncthreads();", "")
    bench = Bench(device_with_change(tmp_path, f"attention_{case.kernels}.cu", barrier, without), Precision.fp32, case)
    with pytest.raises(KernelFault, match="attention_"):
        list(attention.check_case(bench))


@pytest.mark.parametrize("head_size", [0, 257])
def test_heads_of_another_size_are_refused_by_name(head_size):
    device = HostDevice()
    with pytest.raises(EngineError, match=rf"n_embd / model.n_head: heads of {head_size} channels; .* 1 to 256"):
        Attention(device, Numerics.of(device, Precision.fp32), n_head=1, head_size=head_size)
