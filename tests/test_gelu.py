from pathlib import Path

import numpy as np
import pytest
from proofs import gelu as proof

from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.device.sources import find_cuda_folder
from gpt2lab.schema import Precision


@pytest.mark.parametrize("mode", [{}, {"checked": True}, {"reverse": True}], ids=str)
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_gelu_and_its_derivative_agree_with_float64(precision: Precision, mode: dict[str, bool]) -> None:
    checks = list(proof.check(HostDevice(**mode), precision))
    assert [str(check) for check in checks if not check.passed] == []
    assert len(checks) == 4 * (len(proof.SHAPES) + len(proof.LARGE))


def test_gelu_in_proof_mode_is_computed_in_float64() -> None:
    assert [str(check) for check in proof.check(HostDevice(float64=True), Precision.fp32) if not check.passed] == []


def test_the_reference_derivative_is_the_slope_of_the_reference() -> None:
    x, h = np.linspace(-8, 8, 401), 1e-5
    slope = (proof.gelu(x + h) - proof.gelu(x - h)) / (2 * h)
    np.testing.assert_allclose(proof.gelu_derivative(x), slope, atol=1e-9)


@pytest.mark.parametrize(
    ("right", "wrong"), [("CUBIC = 0.044715", "CUBIC = 0.0447"), ("2.0f * x * slope", "x * slope")]
)
def test_a_wrong_constant_is_noticed(tmp_path: Path, right: str, wrong: str) -> None:
    source = find_cuda_folder()
    (tmp_path / "common.cuh").write_bytes((source / "common.cuh").read_bytes())
    text = (source / "gelu.cu").read_text()
    assert right in text
    (tmp_path / "gelu.cu").write_text(text.replace(right, wrong))
    assert [check for check in proof.check(HostDevice(folder=tmp_path), Precision.fp32) if not check.passed]
