"""The ops over rows and over the flat parameters, run on the host device."""

import itertools
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from proofs import adamw, cross_entropy, embedding, grad_norm, layer_norm, positions

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.device.host import HostDevice, KernelFault
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.adamw import schedule_of
from gpt2lab.engine.cuda.ops.embedding import group_rows, segments_size
from gpt2lab.engine.cuda.ops.layer_norm import MAX_N_EMBD, LayerNorm
from gpt2lab.engine.cuda.ops.positions import slots_of
from gpt2lab.errors import EngineError
from gpt2lab.schema import OptimConfig, Precision

CUDA = Path(__file__).parent.parent / "cuda"
PROOFS = [embedding, layer_norm, positions, cross_entropy, grad_norm, adamw]
DEVICES = [
    pytest.param({"checked": True}, Precision.fp32, marks=pytest.mark.slow),
    ({}, Precision.bf16),
    pytest.param({"float64": True}, Precision.fp32, marks=pytest.mark.slow),
    pytest.param({}, Precision.fp32, marks=pytest.mark.slow),
    pytest.param({"checked": True}, Precision.bf16, marks=pytest.mark.slow),
    pytest.param({"reverse": True}, Precision.fp32, marks=pytest.mark.slow),
    pytest.param({"reverse": True}, Precision.bf16, marks=pytest.mark.slow),
]


def failures(proof: ModuleType, device: Device, precision: Precision) -> list[str]:
    return [str(check) for check in proof.check(device, precision) if not check.passed]


@pytest.mark.parametrize(("options", "precision"), DEVICES, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_kernels_equal_float64_on_every_host_device(proof, options, precision):
    assert failures(proof, HostDevice(**options), precision) == []


# One thing wrong in one kernel: (proof of the file, what is there, what takes its place).
MISTAKES = [
    (embedding, "row % T", "row / T"),
    (embedding, "positions ? positions[row] : row % T", "row % T"),
    (embedding, "group < GROUPS", "group < GROUPS - 1"),
    (embedding, "begin + threadIdx.y, end", "begin + threadIdx.y + 1, end"),
    (embedding, "target[channel] += total", "target[channel] = total"),
    (embedding, "thread >= CHANNELS || channel >= width", "thread >= CHANNELS"),
    (layer_norm, "const float eps = 1e-5", "const float eps = 1e-3"),
    (layer_norm, "- g_mean - n * gn_mean", "- g_mean"),
    (layer_norm, "r < ROWS_PER_BLOCK", "r < 1"),
    (positions, "(long long)b * T + counted", "(long long)b * n + counted"),
    (positions, "if (slot >= 0)", "if (slot > 0)"),
    (cross_entropy, "v + k < V ? to_float", "true ? to_float"),
    (cross_entropy, "x[k] > largest) first", "x[k] >= largest) first"),
    (cross_entropy, "if (v + k == target) gradient -= 1", "gradient -= 1"),
    (cross_entropy, "sum *= expf(before - largest)", "sum *= 1"),
    (cross_entropy, "targets[middle] < v", "targets[middle] <= v"),
    (cross_entropy, "* inverse * total", "* inverse"),
    (cross_entropy, "gradient -= counts[i++]", "gradient -= counts[i]"),
    (cross_entropy, "loss += counts[i] *", "loss +="),
    (cross_entropy, "== all.first ? counts[i]", "== all.first ? 1"),
    (grad_norm, "clip > 0 && norm > clip", "norm > clip"),
    (grad_norm, "if (!finite && flag[0] == 0)", "if (!finite)"),
    (grad_norm, "k < kept.end; k++", "k <= kept.end; k++"),
    (adamw, "tensor.decays ?", "true ?"),
    (adamw, "if (flag[0] != 0) return;", ""),
    (adamw, "1 / schedule[2]", "schedule[2]"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("proof", "right", "wrong"), MISTAKES)
def test_a_mistake_in_a_kernel_is_found(tmp_path, proof, right, wrong):
    folder = shutil.copytree(CUDA, tmp_path / "cuda")
    file = folder / f"{proof.__name__.split('.')[-1]}.cu"
    code = file.read_text(encoding="utf-8")
    assert code.count(right) >= 1
    file.write_text(code.replace(right, wrong), encoding="utf-8")
    try:
        found = failures(proof, HostDevice(folder=folder, checked=True), Precision.fp32)
    except KernelFault as fault:
        found = [str(fault)]
    assert found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"), [("half_band + 3", "half_band + 4"), ("4 * row + half_band + 1", "4 * row + half_band")]
)
def test_a_mistake_in_the_band_rule_is_found(tmp_path, right, wrong):
    folder = shutil.copytree(CUDA, tmp_path / "cuda")
    code = (folder / "band.cuh").read_text(encoding="utf-8")
    assert right in code
    (folder / "band.cuh").write_text(code.replace(right, wrong), encoding="utf-8")
    for proof in (adamw, grad_norm):
        assert failures(proof, HostDevice(folder=folder), Precision.fp32)


def test_layer_norm_refuses_more_channels_than_its_threads_can_hold():
    device = HostDevice()
    with pytest.raises(EngineError, match=r"model\.n_embd=4097: .* up to 4096 channels"):
        LayerNorm(device, Numerics.of(device, Precision.fp32), n_embd=MAX_N_EMBD + 1)


@pytest.mark.parametrize("vocab_size", [3, 97, 70_000])
def test_group_rows_lists_the_rows_of_each_token_once_and_in_order(vocab_size):
    tokens = np.random.default_rng(0).integers(0, vocab_size, (6, 11)).astype(np.int32)
    order, segments = group_rows(tokens, vocab_size)
    assert order.dtype == segments.dtype == np.int32
    assert len(segments) == segments_size(tokens.size, vocab_size)
    flat = tokens.ravel()
    n, begins = segments[0], segments[1:]
    assert begins[n:].tolist() == [tokens.size] * (len(begins) - n)
    groups = [order[begin:end] for begin, end in itertools.pairwise(begins[: n + 1])]
    assert [flat[group[0]] for group in groups] == sorted(set(flat))
    assert all(len(set(flat[group])) == 1 and list(group) == sorted(group) for group in groups)
    assert sorted(order) == list(range(tokens.size))


def test_slots_are_the_inverse_of_the_counted_positions():
    assert slots_of(np.array([1, 4]), 6).tolist() == [-1, 0, -1, -1, 1, -1]


def test_the_schedule_corrects_the_bias_of_the_first_update_fully():
    optim = OptimConfig(beta1=0.9, beta2=0.99)
    assert schedule_of(optim, 1, 1e-3) == pytest.approx((1e-3, 0.1, 0.1))
