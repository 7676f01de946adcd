"""Products over tiles of a band against the whole matrix multiplied with its mask."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from proof import UNIT_ROUNDOFF, compare, tolerance
from tiny_models import (
    TORCH,
    assert_near,
    batch,
    comparable,
    config,
    engine,
    random_params,
    reference,
    spec_for,
    tokens_for,
)
from torch import Tensor, nn

from gpt2lab.engine.torch import engine as torch_engine
from gpt2lab.engine.torch.banded import BandedLinear, clear_outside_band
from gpt2lab.engine.torch.model import GPT
from gpt2lab.engine.torch.passes import DeviceRows
from gpt2lab.engine.torch.plan import COSTS
from gpt2lab.model.band_tiles import mlp_tiles
from gpt2lab.model.bands import band_mask, banded_tensors
from gpt2lab.model.params import Params, tensor_shapes
from gpt2lab.schema import Decay, OptimConfig

BANDS = st.sampled_from([1, 2, 3, 7, 64, 256, 10**6])
WIDENS = {"fc1": True, "fc2": False}


def mask_of(n_embd: int, band: int, *, widens: bool) -> Tensor:
    mask = torch.from_numpy(band_mask(n_embd, band))
    return mask if widens else mask.T.contiguous()


def layer_of(matrix: Tensor, bias: Tensor, band: int, tile: int) -> BandedLinear:
    layer = BandedLinear(min(matrix.shape), band, tile, widens=len(matrix) >= len(matrix.T)).to(matrix.dtype)
    with torch.no_grad():
        layer.weight.copy_(layer.from_matrix(matrix))
        layer.bias.copy_(bias)
    return layer


def assert_products_are_those_of_the_masked_matrix(
    n_embd: int, band: int, tile: int, rows: int, *, widens: bool
) -> None:
    generator = torch.Generator().manual_seed(n_embd + 100 * rows)
    mask = mask_of(n_embd, band, widens=widens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    matrix, bias, x, upstream = (
        draw(*mask.shape) * mask,
        draw(len(mask)),
        draw(rows, len(mask.T)),
        draw(rows, len(mask)),
    )
    layer = layer_of(matrix, bias, band, tile)
    given_x = x.clone().requires_grad_()
    out = layer(given_x)
    out.backward(upstream)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    found = {
        "out": (out.detach(), x @ matrix.T + bias, len(mask.T) + 1),
        "input": (given_x.grad, upstream @ matrix, len(mask)),
        "weight": (layer.to_matrix(layer.weight.grad), upstream.T @ x * mask, rows),
        "bias": (layer.bias.grad, upstream.sum(0), rows),
    }
    for name, (value, expected, terms) in found.items():
        check = compare(name, value.numpy(), expected.numpy(), tolerance(terms=terms, compute="fp64", roundings=0))
        assert check.passed, str(check)
    # what a row of the band has beyond the first or last hidden unit is no weight, and gets no gradient
    assert torch.equal(layer.from_matrix(layer.to_matrix(layer.weight.grad)), layer.weight.grad)


@given(n_embd=st.integers(1, 48), band=BANDS, tile=st.integers(1, 100), rows=st.integers(1, 70), widens=st.booleans())
@example(n_embd=20, band=7, tile=6, rows=5, widens=True)
@example(n_embd=20, band=64, tile=16, rows=33, widens=False)
def test_a_layer_multiplies_as_the_masked_matrix_does(n_embd, band, tile, rows, widens):
    assert_products_are_those_of_the_masked_matrix(n_embd, band, tile, rows, widens=widens)


@pytest.mark.parametrize("widens", WIDENS.values(), ids=WIDENS)
def test_a_layer_of_gpt2_width_multiplies_as_the_masked_matrix_does(widens):
    assert_products_are_those_of_the_masked_matrix(768, 256, 64, 9, widens=widens)


@given(n_embd=st.integers(1, 40), band=BANDS, tile=st.integers(1, 100), widens=st.booleans())
def test_a_matrix_comes_back_as_it_was_given(n_embd, band, tile, widens):
    mask = mask_of(n_embd, band, widens=widens)
    matrix = torch.arange(1.0, mask.numel() + 1).view(mask.shape) * mask
    layer = layer_of(matrix, torch.zeros(len(mask)), band, tile)
    assert torch.equal(layer.to_matrix(layer.weight.detach()), matrix)
    if not mask.all():
        with pytest.raises(AssertionError, match="outside the band"):
            layer.from_matrix(torch.ones(mask.shape))


@given(n_embd=st.integers(1, 40), band=BANDS, widens=st.booleans())
def test_clearing_leaves_what_the_mask_keeps(n_embd, band, widens):
    mask = mask_of(n_embd, band, widens=widens)
    matrix = torch.arange(1.0, mask.numel() + 1).view(mask.shape)
    cleared = matrix.clone()
    clear_outside_band(cleared, band, widens=widens)
    assert torch.equal(cleared, matrix * mask)


def bfloat16_errors(seed: int, *, widens: bool) -> tuple[list[float], list[float]]:
    """Return squared relative errors of output, input, weight and bias gradient: in tiles, and of a dense layer."""
    mask = mask_of(96, 64, widens=widens)
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(mask.shape, generator=generator) * mask
    bias, x, upstream = (
        torch.randn(shape, generator=generator) for shape in (len(mask), (50, len(mask.T)), (50, len(mask)))
    )
    dense = nn.Linear(len(mask.T), len(mask))
    with torch.no_grad():
        dense.weight.copy_(matrix)
        dense.bias.copy_(bias)
    exact = [x.double() @ matrix.double().T + bias.double(), upstream.double() @ matrix.double()]
    exact += [upstream.double().T @ x.double() * mask, upstream.double().sum(0)]

    def errors(module: nn.Module) -> list[float]:
        given_x = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(given_x)
        assert out.dtype == torch.bfloat16
        out.backward(upstream.bfloat16())
        of_weight, of_bias = (p.grad for p in module.parameters())
        assert of_weight.dtype == of_bias.dtype == torch.float32
        of_matrix = module.to_matrix(of_weight) if isinstance(module, BandedLinear) else of_weight * mask
        found = (out.detach(), given_x.grad, of_matrix, of_bias)
        return [
            float((value - expected).square().sum() / expected.square().sum())
            for value, expected in zip(found, exact, strict=True)
        ]

    return errors(layer_of(matrix, bias, 64, 32)), errors(dense)


@pytest.mark.parametrize("widens", WIDENS.values(), ids=WIDENS)
def test_bfloat16_errs_no_more_than_a_dense_product_under_autocast(widens):
    n_seeds = 8
    ours, theirs = np.array([bfloat16_errors(seed, widens=widens) for seed in range(n_seeds)]).swapaxes(0, 1)
    # Both round the same operands and each sum once; only the order of the float32 sums may differ. So the mean over
    # seeds may be above the dense one by what that is uncertain by itself, its standard error.
    uncertain = theirs.std(axis=0, ddof=1) / n_seeds**0.5
    assert (theirs.mean(axis=0) > (UNIT_ROUNDOFF["bf16"] / 4) ** 2).all()  # else nothing was rounded to bfloat16
    assert (ours.mean(axis=0) <= theirs.mean(axis=0) + uncertain).all()


TILES: dict[str, int | None] = {"fc1": 8, "fc2": 5}
WHOLE: dict[str, int | None] = {"fc1": None, "fc2": None}
SHAPE = config(fc1_band=9, fc2_band=14)
WIDER_THAN_ALL = 10**6
# Width, bands of FC1 and FC2 (0: dense), hidden units of their tiles.
TRAINED = [
    (12, (9, 14), (8, 5)),
    (20, (1, 1), (6, 16)),
    (20, (2, 7), (1, 33)),
    (20, (7, 2), (16, 80)),
    (20, (0, 7), (None, 9)),
    (20, (WIDER_THAN_ALL, WIDER_THAN_ALL), (16, 7)),
    (20, (7, WIDER_THAN_ALL), (6, None)),
    (48, (64, 64), (64, 50)),
    (96, (256, 0), (64, None)),
    (96, (0, 256), (None, 128)),
    (96, (256, 64), (100, 64)),
    pytest.param(768, (256, 256), (256, 192), marks=pytest.mark.slow),
]


def matrices(model: GPT, value: Callable[[nn.Parameter], Tensor]) -> Params:
    """Return a value per parameter as the 16 tensors, with whole matrices, in float64."""
    found = {name: np.empty(shape) for name, shape in tensor_shapes(model.config).items()}
    for name, key, index, p in model.named_tensors():
        layer = model.get_submodule(key.rpartition(".")[0])
        banded = isinstance(layer, BandedLinear) and key.endswith("weight")
        found[name][index] = (layer.to_matrix(value(p)) if banded else value(p)).detach().numpy()
    return found


@pytest.mark.parametrize(("n_embd", "bands", "tiles"), TRAINED, ids=str)
def test_a_model_in_tiles_trains_as_the_reference(n_embd, bands, tiles):
    n_layer = 1 if n_embd > 96 else 2
    shape = config(n_layer=n_layer, n_embd=n_embd, max_seq_len=5, padded_vocab_size=19)
    shape = replace(shape, fc1_band=bands[0], fc2_band=bands[1])
    # Smaller weights where a sum has more of them, so that activations are as large at every width; and an eps far
    # above gradients that are rounding alone (of key biases).
    params, eps, rate = random_params(shape, std=0.2 * (12 / n_embd) ** 0.5), 1e-4, 1e-2
    batch_of = tokens_for(shape)
    rows = DeviceRows(*(torch.from_numpy(array).long() for array in batch_of))
    model = GPT.from_params(shape, params, dtype=torch.float64, tiles=dict(zip(WHOLE, tiles, strict=True)))
    optim = OptimConfig(eps=eps, weight_decay=0.1, grad_clip=0.0, decay=Decay.all)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, eps=eps, weight_decay=0.1, betas=(optim.beta1, optim.beta2)
    )
    theirs = reference(spec_for(shape, None, TORCH, optim=optim), params)
    # Error of a gradient relative to the largest of its tensor.
    allowed = tolerance(terms=rows.n_counted * shape.n_hidden, compute="fp64", roundings=0)
    drift = 0.0  # bound on the difference of a parameter: a step divides a gradient by eps at least
    for _ in range(20):
        optimizer.zero_grad()
        loss = model.loss_sum(rows) / rows.n_counted
        loss.backward()
        model.clear_gradients_outside_bands()  # of a matrix that is not in tiles
        theirs.train_step(*batch_of, learning_rate=rate)
        found = matrices(model, lambda p: p.grad)
        expected = theirs.model.collect(lambda p: p.grad)
        slope = sum(np.abs(gradient).sum() for gradient in expected.values())
        assert loss.item() == pytest.approx(theirs.result().loss, rel=allowed, abs=slope * drift)
        if drift == 0:
            assert_near(found, expected, shape, allowed)
        drift += rate * allowed * max(np.abs(gradient).max() for gradient in expected.values()) / eps
        optimizer.step()
    assert drift < rate / 1e6
    found = comparable(matrices(model, lambda p: p), shape)
    for name, value in comparable(theirs.parameters(), shape).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=drift, err_msg=name)
    masks = banded_tensors(shape)
    for name, array in model.params().items():
        assert name not in masks or not array[:, ~masks[name]].any()


@pytest.fixture
def small_tiles(monkeypatch):
    """Engines whose MLP works in tiles that do not divide its size."""
    monkeypatch.setattr(torch_engine, "choose_tiles", lambda *_: TILES)


def test_nothing_is_as_large_as_a_whole_matrix(small_tiles):
    shape = replace(SHAPE, n_embd=64, n_head=1, vocab_size=2, padded_vocab_size=2)
    trained = engine(TORCH, shape)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    inputs, targets = (array % 2 for array in batch())
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        trained.train_step(inputs, targets, learning_rate=1e-3)
    held = [tensor for state in trained._optimizer.state.values() for tensor in state.values()]
    held += [*trained._model.parameters(), *trained._model.buffers(), *(p.grad for p in trained._model.parameters())]
    sizes += [tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in held]
    assert max(sizes) < 4 * 64 * 64


def test_what_a_band_has_beyond_the_ends_stays_zero_in_training(small_tiles):
    trained = engine(TORCH, SHAPE, optim={"decay": "all", "weight_decay": 0.5})
    for step in range(10):
        trained.train_step(*batch(seed=step), learning_rate=1e-2)
    for layer in (layer for block in trained._model.blocks for layer in (block.mlp.fc1, block.mlp.fc2)):
        state = trained._optimizer.state[layer.weight]
        for values in (layer.weight.detach(), layer.weight.grad, state["exp_avg"], state["exp_avg_sq"]):
            assert torch.equal(layer.from_matrix(layer.to_matrix(values)), values)


def test_the_key_that_switches_tiles_off_changes_rounding_only(monkeypatch):
    shape = config(n_embd=96, fc1_band=20, fc2_band=40)
    found = {}
    for on in (True, False):
        monkeypatch.setattr(
            torch_engine,
            "choose_tiles",
            lambda spec, device: {"fc1": 64, "fc2": 64} if spec.engine.banded_products else WHOLE,
        )
        e = engine(replace(TORCH, banded_products=on), shape)
        assert isinstance(e._model.blocks[0].mlp.fc1, BandedLinear if on else nn.Linear)
        found[on] = e.loss_and_gradients(*batch())
    assert found[True][0] == pytest.approx(found[False][0], rel=tolerance(terms=96))
    scale = max(np.abs(gradient).max() for gradient in found[False][1].values())
    for name, expected in found[False][1].items():
        np.testing.assert_allclose(
            found[True][1][name], expected, rtol=0, atol=scale * tolerance(terms=60 * 384), err_msg=name
        )


@pytest.mark.parametrize(
    ("n_embd", "band", "rows", "pays"),
    [
        (768, 256, 1024, True),
        (768, 512, 256, True),
        (128, 64, 2048, True),
        (128, 0, 2048, False),
        (128, 256, 64, False),
    ],
)
def test_tiles_are_used_where_they_were_measured_to_pay(n_embd, band, rows, pays):
    shape = config(n_embd=n_embd, fc1_band=band)
    assert (mlp_tiles(shape, rows, COSTS["cpu"])["fc1"] is not None) == pays
