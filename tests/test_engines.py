"""What every engine does: one body, run by each."""

from dataclasses import replace

import numpy as np
import pytest
from proof import tolerance
from tiny_models import CUDA_ON_HOST, TORCH, assert_near, batch, config, engine, random_params, reference

from gpt2lab.engine import EngineSpec, create_engine
from gpt2lab.engine.torch import engine as torch_engine
from gpt2lab.errors import DivergedError
from gpt2lab.model.bands import apply_bands, banded_tensors, is_dense
from gpt2lab.model.llmc import read_checkpoint, read_tensors
from gpt2lab.schema import Decay, EngineConfig, OptimConfig, Precision


@pytest.fixture(params=[TORCH, "tiles", CUDA_ON_HOST], ids=["torch", "torch, bands in tiles", "cuda on host"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    """Each engine in turn; bands as narrow as those of small models are multiplied in tiles only where told to."""
    if request.param == "tiles":
        monkeypatch.setattr(torch_engine, "choose_tiles", small_tiles)
        return TORCH
    return request.param


def small_tiles(spec: EngineSpec, _device: str) -> dict[str, int | None]:
    shape = spec.model
    return {name: None if is_dense(shape.n_embd, band) else 5 for name, band in shape.bands.items()}


@pytest.mark.parametrize(
    ("bands", "counted"),
    [({}, None), ({"fc1_band": 9, "fc2_band": 4}, None), ({"fc1_band": 6}, (2, 4))],
    ids=["dense", "banded", "masked"],
)
def test_gradients_and_three_updates_are_those_of_the_reference(kind, bands, counted):
    shape, optim = config(**bands), OptimConfig(weight_decay=0.1, grad_clip=0.5, eps=1e-3)
    spec = EngineSpec(model=shape, optim=optim, engine=kind, counted=counted, batch_size=6, seq_len=10)
    params = apply_bands(random_params(shape), shape)
    ours, theirs = create_engine(spec, params), reference(spec, params)
    limit = 5 * tolerance(terms=60, roundings=4)  # five crossings of a layer; sums over 60 targets
    loss, gradients = ours.loss_and_gradients(*batch())
    expected_loss, expected = theirs.loss_and_gradients(*batch())
    assert loss == pytest.approx(expected_loss, rel=limit)
    assert_near(gradients, expected, shape, limit)
    for step in range(3):
        for trained in (ours, theirs):
            trained.train_step(*batch(seed=step), learning_rate=1e-2)
    found, wanted = ours.result(), theirs.result()
    assert wanted.grad_norm > optim.grad_clip  # else nothing is clipped here
    assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=limit)
    assert_near(ours.parameters(), theirs.parameters(), shape, limit)
    for kind_of_moment in ("m.", "v."):
        held = ({n[2:]: a for n, a in e.moments().items() if n.startswith(kind_of_moment)} for e in (ours, theirs))
        assert_near(*held, shape, 2 * limit)  # second moments hold squares
    logits = np.abs(ours.logits(batch()[0]) - theirs.logits(batch()[0])).max()
    assert logits <= limit * np.abs(theirs.logits(batch()[0])).max()


def test_the_mask_of_positions_counts_only_their_targets(kind):
    inputs, targets = batch()
    one = engine(kind, counted=(4,))
    loss, gradients = one.loss_and_gradients(inputs, targets)
    logits = one.logits(inputs)[:, 4].astype(np.float64)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), targets[:, 4]])
    assert loss == pytest.approx(expected, rel=1e-6)
    elsewhere = targets.copy()
    elsewhere[:, [0, 1, 2, 3, 5, 6, 7, 8, 9]] = 0
    again, same = one.loss_and_gradients(inputs, elsewhere)
    assert again == loss
    for name in gradients:
        np.testing.assert_array_equal(gradients[name], same[name])
    assert not gradients["wpe"][5:].any()  # what comes after the counted position cannot matter


@pytest.mark.parametrize("micro", [1, 2, 4, 5])
def test_accumulation_gives_the_gradient_of_the_whole_batch(kind, micro):
    inputs, targets = batch()
    whole_loss, whole = engine(kind, counted=(3, 4, 5)).loss_and_gradients(inputs, targets)
    loss, parts = engine(kind, counted=(3, 4, 5), micro_batch_size=micro).loss_and_gradients(inputs, targets)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for name in whole:
        # float32 sums in another order: unit roundoff times the square root of the 60 rows, with a factor 8
        np.testing.assert_allclose(
            parts[name], whole[name], rtol=0, atol=8 * 2**-24 * 60**0.5 * np.abs(whole[name]).max()
        )


@pytest.mark.parametrize(("counted", "micro"), [(None, 1), (None, 6), ((1, 3), 1)])
def test_rows_shorter_than_the_longest_have_the_loss_of_their_own_targets(kind, counted, micro):
    inputs, targets = batch(6, 4)
    short = engine(kind, counted=counted, seq_len=4, micro_batch_size=micro)
    logits = short.logits(inputs).astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    expected = losses[:, list(counted or range(4))].mean()
    assert short.loss_and_gradients(inputs, targets)[0] == pytest.approx(expected, rel=1e-6)
    assert short.evaluate(inputs, targets).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("decay", list(Decay))
def test_weights_and_moments_outside_a_band_stay_exactly_zero(kind, decay):
    shape = config(fc1_band=6, fc2_band=7)  # narrower than 6, some hidden units reach no channel
    trained = engine(kind, shape, optim={"decay": decay, "weight_decay": 0.5, "learning_rate": 1e-2})
    for step in range(25):
        trained.train_step(*batch(seed=step), learning_rate=1e-2)
    params, moments = trained.parameters(), trained.moments()
    for name, mask in banded_tensors(shape).items():
        for array in (params[name], moments[f"m.{name}"], moments[f"v.{name}"]):
            assert not array[:, ~mask].any()
            assert array[:, mask].all()


def test_one_update_is_adamw_written_out(kind):
    optim = {"learning_rate": 1e-2, "weight_decay": 0.3, "grad_clip": 0.05}
    trained = engine(kind, optim=optim)
    inputs, targets = batch()
    before = {name: array.astype(np.float64) for name, array in trained.parameters().items()}
    _, gradients = trained.loss_and_gradients(inputs, targets)
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    trained.train_step(inputs, targets, learning_rate=2e-2)
    assert trained.result().grad_norm == pytest.approx(norm, rel=1e-6)
    assert norm > 0.05  # else nothing is clipped here
    after = trained.parameters()
    for name, p in before.items():
        g = gradients[name] * (0.05 / norm)
        decays = 0.3 if name in ("wte", "wpe", "qkvw", "attprojw", "fcw", "fcprojw") else 0.0
        # After one update the bias-corrected moments are the gradient and its square.
        expected = p * (1 - 2e-2 * decays) - 2e-2 * g / (np.abs(g) + 1e-8)
        small = np.abs(g) < 1e-9  # rounding decides their sign
        np.testing.assert_allclose(np.where(small, 0, after[name] - expected), 0, atol=2e-6, err_msg=name)


def test_decay_all_reaches_norms_and_biases(kind):
    trained = engine(kind, optim={"decay": Decay.all, "weight_decay": 0.5})
    kept = engine(kind, optim={"decay": Decay.matrices, "weight_decay": 0.5})
    for e in (trained, kept):
        e.train_step(*batch(), learning_rate=1e-2)
    np.testing.assert_array_equal(trained.parameters()["qkvw"], kept.parameters()["qkvw"])
    difference = kept.parameters()["ln1w"] - trained.parameters()["ln1w"]
    np.testing.assert_allclose(difference, 1e-2 * 0.5, rtol=1e-4)


def test_padded_vocabulary_rows_get_no_gradient_and_stay_zero(kind):
    trained = engine(kind, optim={"decay": Decay.all})
    for step in range(3):
        trained.train_step(*batch(seed=step), learning_rate=1e-2)
    assert not trained.parameters()["wte"][17:].any()
    assert not trained.moments()["v.wte"][17:].any()


@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_restored_engine_continues_with_the_same_bits(kind, steps_before):
    straight, first = engine(kind, config(fc1_band=6)), engine(kind, config(fc1_band=6))
    for step in range(6):
        straight.train_step(*batch(seed=step), learning_rate=1e-2)
    for step in range(steps_before):
        first.train_step(*batch(seed=step), learning_rate=1e-2)
    second = engine(kind, config(fc1_band=6), seed=99)
    second.restore(first.parameters(), first.moments(), first.step)
    for step in range(steps_before, 6):
        second.train_step(*batch(seed=step), learning_rate=1e-2)
    assert second.step == straight.step == 6
    for name, array in straight.parameters().items():
        np.testing.assert_array_equal(second.parameters()[name], array, err_msg=name)
    for name, array in straight.moments().items():
        np.testing.assert_array_equal(second.moments()[name], array, err_msg=name)


def test_the_result_is_that_of_the_last_update_whatever_was_asked_since(kind):
    e = engine(kind)
    with pytest.raises(AssertionError, match="no update was done yet"):
        e.result()
    e.train_step(*batch(), learning_rate=1e-2)
    result = e.result()
    assert result.grad_norm > 0
    e.loss_and_gradients(*batch(seed=1))
    e.evaluate(*batch(seed=2))
    e.logits(batch(seed=3)[0])
    assert e.result() == result


def test_evaluation_sums_loss_and_correct_predictions(kind):
    e = engine(kind, counted=(1, 8), micro_batch_size=4)
    inputs, targets = batch()
    result = e.evaluate(inputs, targets)
    logits = e.logits(inputs)[:, [1, 8]]
    assert result.n_counted == 12
    assert result.n_correct == (logits.argmax(-1) == targets[:, [1, 8]]).sum()
    assert result.loss == pytest.approx(engine(kind, counted=(1, 8)).loss_and_gradients(inputs, targets)[0], rel=1e-6)


def test_asking_for_gradients_or_an_evaluation_leaves_the_result_of_the_last_update(kind):
    e = engine(kind)
    e.train_step(*batch(), learning_rate=1e-2)
    result = e.result()
    e.loss_and_gradients(*batch(seed=1))
    e.evaluate(*batch(seed=2))
    assert e.result() == result


def test_a_loss_that_is_not_finite_stops_before_the_update(kind):
    e = engine(kind)
    params = e.parameters()
    params["lnfw"][0] = np.nan
    e.restore(params, {}, 0)

    def update() -> None:
        e.train_step(*batch(), learning_rate=0.1)
        e.result()

    with pytest.raises(DivergedError, match=r"step 1: loss nan, gradient norm nan, learning rate 0.1") as error:
        update()
    assert error.value.exit_code == 4
    assert e.step == 0
    np.testing.assert_array_equal(e.parameters()["wte"], params["wte"])


def test_bfloat16_stays_near_float32_and_keeps_float32_weights(kind):
    low = engine(replace(kind, precision=Precision.bf16))
    loss, gradients = low.loss_and_gradients(*batch())
    full_loss, full = engine(kind).loss_and_gradients(*batch())
    assert loss != full_loss
    assert loss == pytest.approx(full_loss, rel=4 * 2**-8)  # bfloat16 keeps 8 significant bits
    assert gradients["fcw"].dtype == np.float32
    assert np.abs(gradients["fcw"] - full["fcw"]).max() < 4 * 2**-8 * 12**0.5 * np.abs(full["fcw"]).max()


def test_forty_updates_follow_llmc(kind, golden):
    params, shape = read_checkpoint(golden / "model.bin")
    optim = OptimConfig(beta2=0.999, decay=Decay.all, grad_clip=0.0)
    spec = EngineSpec(model=shape, optim=optim, engine=kind, batch_size=4, seq_len=16)
    trained = create_engine(spec, params)
    tokens = np.fromfile(golden / "train.bin", dtype="<u2", offset=1024).astype(np.int32)
    losses = []
    for step in range(40):
        piece = tokens[step * 64 : step * 64 + 65]
        inputs, targets = piece[:-1].reshape(4, 16), piece[1:].reshape(4, 16)
        trained.train_step(inputs, targets, learning_rate=1e-3)
        losses.append(trained.result().loss)
    # losses.txt keeps 7 digits; each loss is a sum of 64 terms near 4.5 in float32
    np.testing.assert_allclose(losses, np.loadtxt(golden / "losses.txt"), rtol=0, atol=8 * 2**-24 * 4.7 * 8)
    after, expected = trained.parameters(), read_tensors(golden / "params_after.bin", shape)
    # A softmax ignores the key bias: its gradient is rounding noise, which AdamW turns into steps.
    for array in (after["qkvb"], expected["qkvb"]):
        array[:, 32:64] = 0
    for name in expected:
        np.testing.assert_allclose(after[name], expected[name], rtol=0, atol=4e-6, err_msg=name)
