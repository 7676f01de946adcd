"""The CUDA core with banded products: which it chooses, and that whole updates are those of dense and masked ones."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from proof import compare, tolerance
from tiny_models import CUDA_ON_HOST, assert_near, config, random_params, reference, spec_for, tokens_for

from gpt2lab.engine import EngineSpec, create_engine
from gpt2lab.engine.cuda import bands as cuda_bands
from gpt2lab.engine.cuda.bands import choose_mlp_tiles, product_seconds
from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.engine.cuda.ops.banded_linear import DENSE, BandedProducts, PointerTables, product_blocks
from gpt2lab.model import band_tiles
from gpt2lab.model.band_tiles import PRODUCTS, ProductTiles
from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import OptimConfig, Precision

# F = 80: tiles that do not divide it, and others for each product.
MODEL = config(n_embd=20, max_seq_len=7, fc1_band=9, fc2_band=24)
TILES = {
    "fc1 and fc2": {
        "fc1": {"forward": 12, "input": 28, "weight": 24},
        "fc2": {"forward": 36, "input": 16, "weight": 17},
    },
    "one block for all": {
        "fc1": {"forward": 80, "input": 80, "weight": 80},
        "fc2": {"forward": 200, "input": 79, "weight": 3},
    },
    "fc1 alone": {"fc1": {"forward": 7, "input": 20, "weight": 1}, "fc2": DENSE["fc2"]},
    "some products": {"fc1": {"input": 20}, "fc2": {"forward": 8, "weight": 64}},
}
ROUNDING = 2.0**-40  # far above what is lost in float64, far below any mistake


def float64(spec: EngineSpec, tiles: ProductTiles) -> CudaEngine:
    return CudaEngine(spec, random_params(spec.model), HostDevice(float64=True), mlp_tiles=tiles)


def in_float64(engine: CudaEngine, name: str) -> np.ndarray:
    """Return a flat array of the engine, with zeros outside the bands."""
    flat = engine._device.download(engine._arena[name])
    masks = banded_tensors(engine._config)
    kept = [
        np.broadcast_to(masks.get(tensor, True), array.shape).ravel() for tensor, array in engine.parameters().items()
    ]
    return np.where(np.concatenate(kept), flat, 0)


@pytest.mark.parametrize("micro", [None, 2, 1])
@pytest.mark.parametrize("name", TILES)
def test_loss_and_gradients_are_those_of_dense_products_in_float64(name, micro):
    spec = spec_for(MODEL, (2, 5), CUDA_ON_HOST, micro_batch_size=micro)  # 3 sequences: passes of 2 and 1
    banded, dense = float64(spec, TILES[name]), float64(spec, DENSE)
    inputs, targets = tokens_for(MODEL)
    (loss, gradients), (expected_loss, _) = (e.loss_and_gradients(inputs, targets) for e in (banded, dense))
    assert loss == pytest.approx(expected_loss, rel=ROUNDING)
    found, expected = (in_float64(e, "gradients") for e in (banded, dense))
    check = compare(name, found, expected, ROUNDING)
    assert check.passed, check
    raw = banded._tensors("gradients")
    for tensor, mask in banded_tensors(MODEL).items():
        assert not gradients[tensor][:, ~mask].any() and gradients[tensor][:, mask].any()
        assert raw[tensor][:, ~mask].any()  # beside the band blocks do write: what was just seen was masked


@pytest.mark.parametrize("name", TILES)
def test_twenty_updates_and_the_gradient_norm_are_those_of_dense_products_in_float64(name):
    optim = OptimConfig(weight_decay=0.3, grad_clip=0.5)
    spec = spec_for(MODEL, None, CUDA_ON_HOST, micro_batch_size=2, optim=optim)
    banded, dense = float64(spec, TILES[name]), float64(spec, DENSE)
    for step in range(20):
        for engine in (banded, dense):
            engine.train_step(*tokens_for(MODEL, B=3 - step % 2, seed=step), learning_rate=1e-2)
        found, expected = banded.result(), dense.result()
        assert found.loss == pytest.approx(expected.loss, rel=ROUNDING * 2**10)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=ROUNDING * 2**10)
    for array in ("parameters", "first moments", "second moments"):
        flat = banded._device.download(banded._arena[array])
        np.testing.assert_array_equal(flat, in_float64(banded, array))  # nothing came to be outside the bands
        check = compare(array, flat, in_float64(dense, array), ROUNDING * 2**10)
        assert check.passed, check


def allowed(shape: GPTConfig, *, rows: int, precision: str = "fp32") -> float:
    """A gradient crosses all layers twice; at each it meets four roundings: norm, weight, product and sum."""
    longest = max(rows, shape.n_hidden, shape.vocab_size)
    return (2 * shape.n_layer + 1) * tolerance(terms=longest, store=precision, roundings=4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("counted", [pytest.param(None, marks=pytest.mark.slow), (-1,)])
def test_every_precision_agrees_with_the_reference(counted, precision):
    model = replace(MODEL, max_seq_len=35)
    params = random_params(model, std=0.05)
    inputs, targets = tokens_for(model)
    spec = spec_for(model, counted, replace(CUDA_ON_HOST, precision=precision), micro_batch_size=2)
    banded = CudaEngine(spec, params, mlp_tiles=TILES["fc1 and fc2"])
    dense = reference(spec, params)
    loss, expected = dense.loss_and_gradients(inputs, targets)
    found_loss, found = banded.loss_and_gradients(inputs, targets)
    limit = allowed(model, rows=inputs.size, precision=precision.name)
    assert abs(found_loss - loss) <= limit * abs(loss)
    assert_near(found, expected, model, limit)
    more = tokens_for(model, B=7)
    assert banded.evaluate(*more).loss == pytest.approx(dense.loss_and_gradients(*more)[0], rel=limit)
    tokens = tokens_for(model, B=5)[0][:, :9]
    wanted = dense.logits(tokens)
    for last_only in (False, True):
        logits = banded.logits(tokens, last_only=last_only)
        check = compare("logits", logits, wanted[:, -1:] if last_only else wanted, limit)
        assert check.passed, check


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_every_access_of_a_banded_update_and_evaluation_is_in_bounds_and_of_what_was_written(precision):
    spec = spec_for(MODEL, (1, 4), replace(CUDA_ON_HOST, precision=precision), micro_batch_size=2)
    device = HostDevice(checked=True)
    trained = CudaEngine(spec, init_params(MODEL, seed=0), device, mlp_tiles=TILES["fc1 and fc2"])
    inputs, targets = tokens_for(MODEL)
    for _ in range(2):
        trained.train_step(inputs, targets, learning_rate=1e-3)
    assert np.isfinite(trained.result().loss)
    trained.evaluate(inputs, targets)
    trained.logits(inputs, last_only=True)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_banded_runs_end_with_the_same_bits(precision):
    spec = spec_for(MODEL, None, replace(CUDA_ON_HOST, precision=precision), micro_batch_size=2)
    ends = []
    for device in (HostDevice(), HostDevice(), HostDevice(reverse=True)):
        trained = CudaEngine(spec, init_params(MODEL, seed=0), device, mlp_tiles=TILES["fc1 and fc2"])
        for step in range(4):
            trained.train_step(*tokens_for(MODEL, seed=step), learning_rate=1e-2)
        ends.append(trained.parameters() | trained.moments())
    for other in ends[1:]:
        for name, array in ends[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_blocks_that_lose_part_of_the_band_change_the_gradients(monkeypatch):
    spec = spec_for(MODEL, None, CUDA_ON_HOST)
    expected = float64(spec, DENSE).loss_and_gradients(*tokens_for(MODEL))[0]
    for kind in ("hidden_blocks", "channel_blocks"):
        whole = getattr(band_tiles, kind)
        with monkeypatch.context() as patch:
            patch.setattr(
                f"gpt2lab.engine.cuda.ops.banded_linear.{kind}",
                lambda n, band, size, whole=whole: whole(n, band // 2, size),
            )
            found = float64(spec, TILES["fc1 and fc2"]).loss_and_gradients(*tokens_for(MODEL))[0]
        assert abs(found - expected) > 1e-6 * expected


def large(**changes) -> EngineSpec:
    kind = replace(CUDA_ON_HOST, **{"precision": Precision.bf16} | changes.pop("kind", {}))
    shape = {"n_layer": 12, "n_head": 1, "n_embd": 768, "max_seq_len": 1024, "vocab_size": 50257, "fc1_band": 256}
    model = GPTConfig(**shape | {"fc2_band": 256} | changes)
    return EngineSpec(model=model, optim=OptimConfig(), engine=kind, batch_size=16, seq_len=1024)


def test_products_are_banded_where_that_promises_to_be_faster():
    spec = large()
    for name, tiles in choose_mlp_tiles(spec).items():
        for product in PRODUCTS:
            tile = tiles[product]
            sizes = {"n_embd": 768, "band": 256, "rows": 16384, "precision": Precision.bf16}
            seconds = {each: product_seconds(name, product, each, **sizes) for each in (None, *cuda_bands.TILES)}
            best = min(seconds, key=seconds.get)
            assert tile == (best if seconds[best] < cuda_bands.CLEARLY * seconds[None] else None)
    assert choose_mlp_tiles(spec) != DENSE


@pytest.mark.parametrize(
    "changes",
    [
        {"fc1_band": 0, "fc2_band": 0},
        {"kind": {"banded_products": False}},
        {"n_embd": 128, "fc1_band": 1024, "fc2_band": 1024},  # keeps everything
        {"n_embd": 780},  # rows of 780 values: tensor cores want multiples of 8
        {"n_embd": 774, "kind": {"precision": Precision.tf32}},  # of 4
        {"n_embd": 128},  # 44 % of the weights are kept
    ],
    ids=str,
)
def test_products_are_dense_where_a_band_would_not_pay_or_is_switched_off(changes):
    assert choose_mlp_tiles(large(**changes)) == DENSE


@pytest.mark.parametrize(("precision", "n_embd"), [(Precision.tf32, 1036), (Precision.fp32, 1037)])
def test_a_width_that_tensor_cores_cannot_read_matters_only_where_they_would(precision, n_embd):
    assert choose_mlp_tiles(large(n_embd=n_embd, kind={"precision": precision})) != DENSE


@pytest.mark.parametrize(("tile", "shapes"), [(256, 1), (512, 1), (640, 2), (1024, 1), (2048, 2)])
def test_blocks_of_one_shape_are_one_launch(tile, shapes, monkeypatch):
    monkeypatch.setattr(cuda_bands, "LAUNCH_S", 1.0)
    for name, product in itertools.product(("fc1", "fc2"), PRODUCTS):
        seconds = product_seconds(name, product, tile, 768, 256, 64, Precision.fp32)
        blocks = product_blocks(name, product, n_embd=768, band=256, tile=tile, align=4)
        products = BandedProducts(SimpleNamespace(), PointerTables(None), name, {product: blocks})
        bias_alone = (name, product) == ("fc2", "forward")
        assert int(seconds) - bias_alone == shapes == sum(map(len, products._indices.values()))


def test_one_matrix_may_be_banded_and_the_other_not():
    chosen = choose_mlp_tiles(large(fc2_band=0))
    assert chosen["fc1"] != DENSE["fc1"] and chosen["fc2"] == DENSE["fc2"]


def test_what_was_chosen_is_said():
    banded = CudaEngine(spec_for(MODEL, None, CUDA_ON_HOST), init_params(MODEL, seed=0), mlp_tiles=TILES["fc1 alone"])
    assert banded.mlp_tiles == {
        "fc1": {"forward": 7, "input": 20, "weight": 1},
        "fc2": {"forward": None, "input": None, "weight": None},
    }
    by_itself = create_engine(spec_for(MODEL, None, CUDA_ON_HOST), init_params(MODEL, seed=0))
    assert set(by_itself.mlp_tiles["fc1"].values()) == {None}  # far too small to pay
