"""The CUDA core as a whole, run on the host device."""

from dataclasses import replace

import numpy as np
import pytest
from proof import compare, tolerance
from tiny_models import (
    CUDA_ON_HOST,
    assert_near,
    batch,
    config,
    engine,
    random_params,
    reference,
    spec_for,
    tokens_for,
)

from gpt2lab.engine import EngineSpec, create_engine
from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.errors import DivergedError, EngineError
from gpt2lab.model.bands import apply_bands, banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.llmc import read_checkpoint, read_debug_state
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import OptimConfig, Precision
from gpt2lab.train.parity import compare_with_llmc

# Awkward shapes: heads of 20 and 7 channels, odd widths, rows above and below the length at which attention changes
# its kernels, a vocabulary that is no multiple of anything.
SHAPES = {
    "heads of 20": {"n_head": 1, "n_embd": 20, "max_seq_len": 5, "vocab_size": 97},
    "odd width": {"n_head": 3, "n_embd": 21, "max_seq_len": 33, "vocab_size": 130},
    "one layer, one position": {"n_layer": 1, "n_head": 2, "n_embd": 8, "max_seq_len": 1, "vocab_size": 3},
    "long rows": {"n_head": 2, "n_embd": 48, "max_seq_len": 70, "vocab_size": 61},
}
VARIANTS = {
    "dense": ({}, None),
    "banded": ({"fc1_band": 9, "fc2_band": 4}, None),
    "one position": ({}, (-1,)),
    "banded, some positions": ({"fc1_band": 6}, (0, -1)),
}


def allowed(shape: GPTConfig, *, rows: int, precision: str = "fp32") -> float:
    """A gradient crosses all layers twice; at each it meets four roundings: norm, weight, product and sum."""
    depth = 2 * shape.n_layer + 1
    longest = max(rows, shape.n_hidden, shape.vocab_size)
    return depth * tolerance(terms=longest, store=precision, roundings=4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_all_gradients_of_one_step_are_those_of_the_reference(shape, variant):
    bands, counted = VARIANTS[variant]
    model = config(**SHAPES[shape], **bands)
    params, spec, batch_of = random_params(model), spec_for(model, counted, CUDA_ON_HOST), tokens_for(model)
    found_loss, found = create_engine(spec, params).loss_and_gradients(*batch_of)
    loss, expected = reference(spec, params).loss_and_gradients(*batch_of)
    limit = allowed(model, rows=batch_of[0].size)
    assert abs(found_loss - loss) <= limit * abs(loss)
    assert_near(found, expected, model, limit)
    for name, mask in banded_tensors(model).items():
        assert not found[name][:, ~mask].any()


@pytest.mark.parametrize("shape", ["heads of 20", "long rows"])
@pytest.mark.parametrize("variant", ["dense", "banded, some positions"])
def test_bfloat16_gradients_are_as_near_as_their_rounding_allows(shape, variant):
    bands, counted = VARIANTS[variant]
    model = config(**SHAPES[shape], **bands)
    params, batch_of = random_params(model, std=0.05), tokens_for(model)
    spec = spec_for(model, counted, replace(CUDA_ON_HOST, precision=Precision.bf16))
    found_loss, found = create_engine(spec, params).loss_and_gradients(*batch_of)
    loss, expected = reference(spec, params).loss_and_gradients(*batch_of)
    limit = allowed(model, rows=batch_of[0].size, precision="bf16")
    assert 2**-24 * loss < abs(found_loss - loss) <= limit * loss
    assert_near(found, expected, model, limit)


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({}, None),
        ({"fc1_band": 9, "fc2_band": 4}, (2, 4)),
        pytest.param({"max_seq_len": 35, "n_embd": 10}, (34,), marks=pytest.mark.slow),
    ],
)
def test_gradients_equal_finite_differences_in_float64(changes, counted):
    model = config(**{"n_embd": 8, "vocab_size": 13, "max_seq_len": 5} | changes)
    inputs, targets = tokens_for(model)
    spec = spec_for(model, counted, CUDA_ON_HOST)
    trained = CudaEngine(spec, random_params(model), HostDevice(float64=True))
    _, gradients = trained.loss_and_gradients(inputs, targets)
    flat = trained._arena["parameters"]  # float64, which the protocol's parameters are not
    gradient = trained._device.download(trained._arena["gradients"])
    kept = np.concatenate(
        [
            np.broadcast_to(banded_tensors(model).get(name, True), array.shape).ravel()
            for name, array in gradients.items()
        ]
    )
    rng, step = np.random.default_rng(3), 1e-5  # the error falls with its square, rounding grows with its inverse
    ends = np.cumsum([array.size for array in gradients.values()])
    for name, end in zip(gradients, ends, strict=True):
        inside = np.arange(end - gradients[name].size, end)
        inside = inside[kept[inside]]
        for i in rng.choice(inside, size=min(2, len(inside)), replace=False):
            value, losses = float(flat[i]), []
            for moved in (value + step, value - step):
                flat[i] = moved
                losses.append(trained.loss_and_gradients(inputs, targets)[0])
            flat[i] = value
            up, down = losses
            assert gradient[i] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize(
    ("length", "precision"),
    [
        pytest.param(40, Precision.fp32, marks=pytest.mark.slow),
        pytest.param(5, Precision.bf16, marks=pytest.mark.slow),
        pytest.param(5, Precision.fp32, marks=pytest.mark.slow),
        pytest.param(40, Precision.bf16, marks=pytest.mark.slow),
    ],
)
def test_every_access_of_an_update_and_an_evaluation_is_in_bounds_ordered_and_initialised(length, precision):
    model = config(max_seq_len=length, fc1_band=9, n_embd=20)
    kind = replace(CUDA_ON_HOST, precision=precision)
    spec = spec_for(model, (1, length - 1), kind, micro_batch_size=2)
    trained = CudaEngine(spec, init_params(model, seed=0), HostDevice(checked=True))
    inputs, targets = tokens_for(model)
    for _ in range(2):
        trained.train_step(inputs, targets, learning_rate=1e-3)
    assert np.isfinite(trained.result().loss)
    trained.evaluate(inputs, targets)
    trained.logits(inputs, last_only=True)
    trained.logits(inputs)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_two_runs_and_one_with_threads_in_reverse_order_end_with_the_same_bits(precision):
    model = config(max_seq_len=36, fc1_band=9)
    spec = spec_for(model, None, replace(CUDA_ON_HOST, precision=precision), micro_batch_size=2)
    ends = []
    for device in (HostDevice(), HostDevice(), HostDevice(reverse=True)):
        trained = CudaEngine(spec, init_params(model, seed=0), device)
        for step in range(4):
            trained.train_step(*tokens_for(model, seed=step), learning_rate=1e-2)
        ends.append(trained.parameters() | trained.moments())
    for other in ends[1:]:
        for name, array in ends[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("counted", [None, (1, 4)])
def test_logits_do_not_depend_on_how_many_passes_they_take(counted):
    model = config(max_seq_len=12, vocab_size=130)
    params = random_params(model)
    tokens = np.random.default_rng(0).integers(0, 130, (7, 12), dtype=np.int32)
    small = create_engine(spec_for(model, counted, CUDA_ON_HOST, batch_size=1, seq_len=6), params)
    large = create_engine(spec_for(model, None, CUDA_ON_HOST, batch_size=7), params)
    expected = reference(spec_for(model, None, CUDA_ON_HOST), params).logits(tokens)
    for T in (1, 6, 12):
        for ours in (small, large):
            for last_only in (False, True):
                found = ours.logits(tokens[:, :T], last_only=last_only)
                wanted = expected[:, T - 1 : T] if last_only else expected[:, :T]
                check = compare(f"logits of {T} positions", found, wanted, allowed(model, rows=84))
                assert check.passed, check


def test_a_row_longer_than_the_model_has_positions_is_not_read():
    trained = create_engine(spec_for(config(), None, CUDA_ON_HOST), init_params(config(), seed=0))
    with pytest.raises(AssertionError, match="11 positions, the model has 10"):
        trained.logits(np.zeros((1, 11), dtype=np.int32))


def test_llmcs_logits_loss_and_gradients_are_computed_again(golden):
    rows = compare_with_llmc(golden / "model.bin", golden / "debug_state.bin", CUDA_ON_HOST)
    assert len(rows) == 18
    for row in rows:
        assert row.passed, row


@pytest.mark.parametrize("variant", VARIANTS)
def test_ten_updates_of_variants_of_llmcs_model_follow_the_reference(golden, variant):
    bands, counted = VARIANTS[variant]
    params, model = read_checkpoint(golden / "model.bin")
    state = read_debug_state(golden / "debug_state.bin", model)
    model = replace(model, **bands)
    params = apply_bands(params, model)
    B, T = state.inputs.shape
    counted = None if counted is None else tuple(sorted({position % T for position in counted}))
    changes = {"batch_size": B, "seq_len": T, "counted": counted, "optim": OptimConfig()}
    spec = EngineSpec(model=model, engine=CUDA_ON_HOST, **changes)
    ours, theirs = create_engine(spec, params), reference(spec, params)
    limit = allowed(model, rows=B * T)
    _, found = ours.loss_and_gradients(state.inputs, state.targets)
    assert_near(found, theirs.loss_and_gradients(state.inputs, state.targets)[1], model, limit)
    for _ in range(10):
        for e in (ours, theirs):
            e.train_step(state.inputs, state.targets, learning_rate=1e-3)
        assert abs(ours.result().loss - theirs.result().loss) <= limit * theirs.result().loss


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ({"n_embd": 257, "n_head": 1}, {}, "heads of 257 channels.*1 to 256"),
        ({"n_embd": 4200, "n_head": 100, "n_layer": 1}, {}, r"n_embd=4200.*up to 4096"),
    ],
)
def test_what_the_core_does_not_have_is_refused_by_name(shape, kind, words):
    model = config(**shape)
    with pytest.raises(EngineError, match=words):
        create_engine(spec_for(model, None, replace(CUDA_ON_HOST, **kind)), {})  # before it looks at parameters


@pytest.mark.parametrize("precision", [Precision.tf32, Precision.bf16])
def test_a_card_too_old_for_a_precision_is_named(precision):
    device = HostDevice()
    device.details |= {"compute_capability": "7.5"}
    device.device_name = "Tesla T4"
    model = config()
    spec = spec_for(model, None, replace(CUDA_ON_HOST, precision=precision))
    with pytest.raises(EngineError, match=rf"precision={precision.name} needs .* 8\.0 .* Tesla T4 has 7\.5: use fp32"):
        CudaEngine(spec, init_params(model, seed=0), device)
    CudaEngine(spec_for(model, None, CUDA_ON_HOST), init_params(model, seed=0), device)


@pytest.mark.parametrize(
    "wait",
    [
        lambda e: e.evaluate(*batch()),
        lambda e: e.logits(batch()[0]),
        lambda e: e.loss_and_gradients(*batch()),
        lambda e: e.parameters(),
        lambda e: e.moments(),
    ],
    ids=["evaluate", "logits", "loss_and_gradients", "parameters", "moments"],
)
def test_every_call_that_waits_says_that_an_update_diverged(wait):
    trained = engine(CUDA_ON_HOST)
    broken = trained.parameters()
    broken["lnfw"][0] = np.nan
    trained.restore(broken, {}, 0)
    trained.train_step(*batch(), learning_rate=0.1)
    with pytest.raises(DivergedError, match="step 1: loss nan"):
        wait(trained)
    assert trained.step == 0


def test_a_run_that_diverged_between_two_readings_goes_back_to_its_last_good_update():
    trained = engine(CUDA_ON_HOST, optim={"grad_clip": 0.0})
    trained.train_step(*batch(), learning_rate=1e-3)
    good = trained.parameters()
    trained.train_step(*batch(seed=1), learning_rate=1e-3)
    after_two = trained.parameters()
    broken = {name: array.copy() for name, array in after_two.items()}
    broken["lnfw"][0] = np.inf
    trained.restore(broken, trained.moments(), 2)
    for seed in (2, 3, 4):
        trained.train_step(*batch(seed=seed), learning_rate=0.5)
    assert trained.step == 5
    with pytest.raises(DivergedError, match=r"step 3: .*learning rate 0.5: not finite; nothing was updated"):
        trained.result()
    assert trained.step == 2
    np.testing.assert_array_equal(trained.parameters()["wte"], after_two["wte"])
    trained.restore(good, trained.moments(), 1)  # the engine can be used again
    trained.train_step(*batch(seed=1), learning_rate=1e-3)
    assert np.isfinite(trained.result().loss)
