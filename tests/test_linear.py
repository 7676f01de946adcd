import numpy as np
import pytest
from proofs import linear as proof
from proofs.arrays import Arrays

from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.ops import linear
from gpt2lab.schema import Precision


@pytest.mark.parametrize("mode", [{}, {"checked": True}, {"reverse": True}], ids=str)
@pytest.mark.parametrize("precision", list(Precision))
def test_a_linear_layer_agrees_with_float64(precision: Precision, mode: dict[str, bool]) -> None:
    checks = list(proof.check(HostDevice(**mode), precision))
    assert [str(check) for check in checks if not check.passed] == []
    assert len(checks) == 14 * len(proof.SHAPES)


def test_a_linear_layer_in_proof_mode_is_computed_in_float64() -> None:
    assert [str(check) for check in proof.check(HostDevice(float64=True), Precision.fp32) if not check.passed] == []


def test_a_layer_that_forgets_its_bias_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.Bias, "forward", lambda self, **_: None)
    failed = {check.name.split()[0] for check in proof.check(HostDevice(), Precision.fp32) if not check.passed}
    assert failed == {"forward"}


def test_the_same_layer_twice_gives_the_same_bits() -> None:
    device = HostDevice()
    runs = []
    for _ in range(2):
        arrays = Arrays(device, Precision.bf16)
        op = linear.Linear(device, arrays.numerics, proof.open_gemm(device, Precision.bf16), n_in=48, n_out=20)
        (x, _), (weight, _), (bias, _) = (
            arrays.act(arrays.normal(33, 48)),
            arrays.act(arrays.normal(20, 48)),
            arrays.float(arrays.normal(20)),
        )
        out, pre = arrays.empty_act(33, 20), arrays.empty_act(33, 20)
        op.forward_gelu(out=out, pre=pre, x=x, weight=weight, bias=bias, bias_act=None)
        runs.append(np.concatenate([out, pre]).tobytes())
    assert runs[0] == runs[1]
