import numpy as np
import pytest
import torch
from tiny_models import config, engine, random_params

from gpt2lab.engine.torch.model import GPT
from gpt2lab.engine.torch.passes import DeviceRows
from gpt2lab.errors import EngineError
from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.params import tensor_shapes
from gpt2lab.schema import DeviceChoice, EngineConfig, Precision


@pytest.mark.parametrize(
    ("bands", "tiles", "counted"),
    [
        ((0, 0), (None, None), None),
        ((9, 4), (None, None), None),
        ((9, 4), (5, 12), None),
        ((0, 3), (None, 4), (4,)),
        ((5, 0), (3, None), (2, 3, 9)),
    ],
)
def test_gradients_equal_finite_differences_in_float64(bands, tiles, counted):
    shape = config(fc1_band=bands[0], fc2_band=bands[1], n_embd=8, vocab_size=13)
    model = GPT.from_params(shape, random_params(shape), dtype=torch.float64, tiles={"fc1": tiles[0], "fc2": tiles[1]})
    rng = np.random.default_rng(3)
    tokens, targets = (torch.from_numpy(rng.integers(0, 13, (3, 10))) for _ in range(2))
    positions = list(counted or range(10))
    rows = DeviceRows(tokens, targets[:, positions], None if counted is None else torch.tensor(positions))

    def loss() -> torch.Tensor:
        return model.loss_sum(rows) / (3 * len(positions))

    loss().backward()
    model.clear_gradients_outside_bands()
    step = 1e-5  # the error of a central difference falls with its square, rounding grows with its inverse
    checked = 0
    for name, _, _, tensor in model.named_tensors():
        flat, gradient = tensor.data.view(-1), tensor.grad.view(-1)
        inside = np.arange(len(flat))
        if name in banded_tensors(shape):  # not what stays zero: outside the band, and beyond the ends of its rows
            inside = flat.nonzero().flatten().numpy()
        for i in rng.choice(inside, size=min(4, len(inside)), replace=False):
            value = float(flat[i])
            flat[i] = value + step
            up = loss().item()
            flat[i] = value - step
            down = loss().item()
            flat[i] = value
            assert float(gradient[i]) == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-9), name
            checked += 1
    assert checked > 80


def test_the_output_layer_is_tied_to_the_token_embedding():
    model = GPT.from_params(config(), init_params(config(), seed=0))
    assert sum(p.numel() for p in model.parameters()) == sum(
        int(np.prod(shape)) for shape in tensor_shapes(config()).values()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"device": DeviceChoice.cuda}, "engine.device=cuda.*found cpu"),
        ({"precision": Precision.tf32}, "tf32 needs a CUDA"),
    ],
)
def test_what_this_machine_lacks_is_refused_by_name(choice, words):
    with pytest.raises(EngineError, match=words):
        engine(EngineConfig(**choice))
