"""What the PyTorch engine leaves out changes nothing but the work: all switches against the reference model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from proof import UNIT_ROUNDOFF, tolerance
from tiny_models import TORCH, assert_near, comparable, config, random_params, reference
from torch import nn

from gpt2lab.engine import EngineSpec, create_engine
from gpt2lab.engine.passes import PassPlanner
from gpt2lab.engine.torch.engine import TorchEngine
from gpt2lab.engine.torch.passes import DeviceRows, TorchPlanner, Tree
from gpt2lab.model.params import Params, tensor_shapes
from gpt2lab.schema import OptimConfig, Precision

T, C = 6, 12
SHAPE = config(max_seq_len=T, n_embd=C)
PLAIN = (False, False)
SWITCHES = {"skip": (True, False), "share": (False, True), "skip and share": (True, True)}
POSITIONS = [(0,), (T - 1,), (3,), (1, 2, 3), (0, 4), tuple(range(T)), None]


def equations(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that begin alike, some of them equal; the targets of equal rows differ."""
    rng = np.random.default_rng(seed)
    inputs = np.stack([rng.integers(0, size, 14) for size in (1, 3, 1, 4, 17, 17)], axis=1).astype(np.int32)
    inputs[[5, 9]] = inputs[2]
    return inputs, rng.integers(0, 3, inputs.shape, dtype=np.int32)


def engine(
    switches: tuple[bool, bool], counted: tuple[int, ...] | None, *, wide: bool = True, **changes
) -> TorchEngine:
    """An engine in float64, or with wide=False as it is."""
    skip, share = switches
    shape, optim = changes.pop("shape", SHAPE), OptimConfig(weight_decay=0.1, eps=1e-4)
    kind = replace(TORCH, skip_uncounted=skip, share_prefixes=share, precision=changes.pop("precision", Precision.fp32))
    spec = EngineSpec(model=shape, optim=optim, engine=kind, counted=counted, batch_size=14, seq_len=T, **changes)
    made = create_engine(spec, random_params(shape))
    assert isinstance(made, TorchEngine)
    if wide:
        made._model.double()
    return made


def collect(made: TorchEngine, value: Callable[[nn.Parameter], torch.Tensor]) -> Params:
    """Return a value per parameter, stacked into the 16 tensors, in float64."""
    found: dict[str, np.ndarray] = {name: np.empty(shape) for name, shape in tensor_shapes(made._model.config).items()}
    for name, _, index, p in made._model.named_tensors():
        found[name][index] = value(p).detach().numpy()
    return found


def gradients(made: TorchEngine, batch: tuple[np.ndarray, np.ndarray]) -> tuple[float, Params]:
    loss, _ = made.loss_and_gradients(*batch)
    return loss, collect(made, lambda p: p.grad)


@pytest.mark.parametrize("counted", POSITIONS, ids=str)
@pytest.mark.parametrize("switches", [PLAIN, *SWITCHES.values()], ids=["plain", *SWITCHES])
@pytest.mark.parametrize(("n_layer", "micro"), [(1, None), (2, None), (2, 5)])
def test_loss_gradients_and_accuracy_are_those_of_the_reference(counted, switches, n_layer, micro):
    batch, shape = equations(), replace(SHAPE, n_layer=n_layer)
    made = engine(switches, counted, shape=shape, micro_batch_size=micro)
    plain = reference(made._spec, random_params(shape))
    # forward and backward cross every layer; the longest sum is over all positions of all rows
    allowed = (2 * n_layer + 1) * tolerance(terms=batch[0].size, compute="fp64", store="fp64")
    (loss, found), (expected_loss, expected) = gradients(made, batch), plain.loss_and_gradients(*batch)
    assert loss == pytest.approx(expected_loss, rel=allowed)
    assert_near(found, expected, shape, allowed)
    likeliest = plain.logits(batch[0]).argmax(axis=-1)
    batch[1][:7] = likeliest[:7]  # equal rows that are right, besides those that are not
    right = (likeliest == batch[1])[:, list(counted or range(T))]
    assert 0 < right.sum() < right.size or counted == (0,)
    evaluated = made.evaluate(*batch)
    assert (evaluated.n_correct, evaluated.n_counted) == (right.sum(), right.size)
    assert evaluated.loss == pytest.approx(plain.loss_and_gradients(*batch)[0], rel=allowed)


@pytest.mark.parametrize("switches", [PLAIN, *SWITCHES.values()], ids=["plain", *SWITCHES])
@pytest.mark.parametrize("micro", [None, 5, 1])
def test_losses_of_passes_are_added_up_as_precisely_as_they_are_computed(micro, switches):
    counted = (1, 2, 3)
    allowed = (2 * SHAPE.n_layer + 1) * tolerance(terms=14 * T, compute="fp64", store="fp64")
    for inputs, targets in (equations(seed) for seed in range(8)):
        made = engine(switches, counted, micro_batch_size=micro)
        tokens, wanted = (torch.from_numpy(array).long() for array in (inputs, targets))
        with torch.no_grad():
            logits = made._model(DeviceRows(tokens))[:, list(counted)]
        mean = nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, list(counted)].flatten()).item()
        assert made.loss_and_gradients(inputs, targets)[0] == pytest.approx(mean, rel=allowed, abs=0)
        assert made.evaluate(inputs, targets).loss == pytest.approx(mean, rel=allowed, abs=0)
        made.train_step(inputs, targets, learning_rate=0.0)
        assert made.result().loss == pytest.approx(mean, rel=allowed, abs=0)


@pytest.mark.parametrize("counted", POSITIONS, ids=str)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_twenty_updates_end_where_those_of_the_reference_end(counted, switches):
    made, start = engine(switches, counted, micro_batch_size=9), random_params(SHAPE)
    plain = reference(made._spec, start)
    for step in range(20):
        for trained in (plain, made):
            trained.train_step(*equations(step), learning_rate=1e-2)
    # AdamW divides by sqrt(v) + eps: an error d of a gradient below 1 moves an update by at most rate * d / eps.
    allowed = 20 * 1e-2 / 1e-4 * 5 * tolerance(terms=14 * T, compute="fp64", store="fp64")
    found = comparable(collect(made, lambda p: p), SHAPE)
    for name, wanted in comparable(plain.parameters(), SHAPE).items():
        assert np.abs(found[name] - wanted).max() < allowed, name
        if name != "wpe":
            assert np.abs(wanted - comparable(start, SHAPE)[name]).max() > 1e-3, name  # else nothing was trained here


def distinct(inputs: np.ndarray, ends: range | tuple[int, ...]) -> int:
    """Return how many prefixes there are that end at one of these positions."""
    return len({tuple(row[: end + 1]) for row in inputs for end in ends})


@pytest.mark.parametrize("counted", [(3,), (1, 3), (T - 1,), None], ids=str)
@pytest.mark.parametrize("switches", [PLAIN, *SWITCHES.values()], ids=["plain", *SWITCHES])
def test_work_that_nothing_needs_is_not_done(counted, switches):
    (skip, share), (inputs, targets) = switches, equations()
    made = engine(switches, counted)
    seen = {}
    for name in ("blocks.0.mlp", "blocks.1.ln_1", "blocks.1.attn.proj", "blocks.1.mlp", "ln_f"):
        module = made._model.get_submodule(name)
        module.register_forward_hook(lambda _, x, __, name=name: seen.update({name: x[0].numel() // C}))
    made.train_step(inputs, targets, learning_rate=1e-3)

    at = range(T) if counted is None else counted
    computed = range(at[-1] + 1) if skip else range(T)
    everywhere = distinct(inputs, computed) if share else 14 * len(computed)
    where_counted = distinct(inputs, at) if share else 14 * len(at)
    last = where_counted if skip else everywhere
    assert seen == {
        "blocks.0.mlp": everywhere,
        "blocks.1.ln_1": everywhere,  # keys and values are needed everywhere
        "blocks.1.attn.proj": last,
        "blocks.1.mlp": last,
        "ln_f": where_counted,
    }
    if skip and share and counted == (3,):
        assert (everywhere, last) < (14 * T / 2, 14)  # else this batch has nothing to leave out


def test_a_batch_that_shares_nothing_takes_rows():
    inputs, targets = equations()
    inputs = inputs.copy()
    inputs[:, 0] = np.arange(14)
    planner = PassPlanner((3,), skip_uncounted=True, share_prefixes=True)
    (rows,) = TorchPlanner(planner, n_head=2, device=torch.device("cpu")).passes(inputs, targets, 14)
    assert isinstance(rows, DeviceRows)
    assert rows.tokens.shape == (14, 4)
    spared, plain = (gradients(engine(s, (3,)), (inputs, targets)) for s in (SWITCHES["skip and share"], PLAIN))
    assert spared[0] == pytest.approx(plain[0], rel=1e-14)


def test_the_tensors_of_a_batch_that_comes_again_are_made_once():
    inputs, targets = equations()
    planner = TorchPlanner(
        PassPlanner((3,), skip_uncounted=True, share_prefixes=True), n_head=2, device=torch.device("cpu")
    )
    assert next(planner.passes(inputs, targets, 14)) is not next(planner.passes(inputs, targets, 14))
    fixed = tuple(array.copy() for array in (inputs, targets))
    for array in fixed:
        array.flags.writeable = False
    (tree,) = planner.passes(*fixed, 14)
    assert isinstance(tree, Tree)
    next(planner.passes(inputs, targets, 14))  # an evaluation in between
    assert next(planner.passes(*fixed, 14)) is tree
    several = list(planner.passes(*fixed, 5))
    assert len(several) == 3
    assert next(planner.passes(*fixed, 5)) is not several[0]  # one by one, or micro-batches would not save memory


@pytest.mark.parametrize("counted", [(3,), (1, 2, 3), None], ids=str)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_bfloat16_errs_no_more_than_on_plain_rows_but_for_one_rounding(counted, switches):
    squares = {switches: 0.0, PLAIN: 0.0}  # mean squared error of all gradients, relative, over batches
    for batch in (equations(seed) for seed in range(8)):
        exact = flat(gradients(engine(PLAIN, counted), batch)[1])
        for which in squares:
            found = flat(gradients(engine(which, counted, wide=False, precision=Precision.bf16), batch)[1])
            squares[which] += ((found - exact) ** 2).sum() / (exact**2).sum() / 8
    # Rows that share a node round their parts of its gradient one by one, and those errors average out; the node's
    # gradient is rounded as a whole. A rounding's mean square is a third of the largest one's square.
    assert squares[PLAIN] > 0
    assert squares[switches] <= squares[PLAIN] + UNIT_ROUNDOFF["bf16"] ** 2 / 3


def flat(found: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([gradient.ravel() for gradient in found.values()])
