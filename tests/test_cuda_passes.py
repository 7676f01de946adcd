"""Passes that leave out what nothing counted needs, on the CUDA core: the same loss, gradients and updates."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proof import compare, tolerance
from tiny_models import CUDA_ON_HOST, assert_near, config, random_params, reference, spec_for

from gpt2lab.engine import create_engine
from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.engine.cuda.ops.tree_attention import key_work_sizes
from gpt2lab.engine.cuda.passes import block_lengths, tree_arrays
from gpt2lab.engine.passes import PrefixTree, build_tree
from gpt2lab.engine.passes import planner as passes
from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig, tensor_shapes
from gpt2lab.schema import EngineConfig, Precision

T = 6
COUNTED = {"all": None, "first": (0,), "last": (5,), "middle": (2,), "some": (1, 3, 4), "each by name": tuple(range(6))}
SWITCHES = {
    f"{'skip' if skip else 'whole'}, {'share' if share else 'apart'}": {"skip_uncounted": skip, "share_prefixes": share}
    for skip, share in product((True, False), repeat=2)
}
PLAIN = {"skip_uncounted": False, "share_prefixes": False}


def rows_of(kind: str, seed: int = 0, B: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets (B, T) int32 of one kind."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 17, (B, T), dtype=np.int32)
    if kind == "one row":
        return rng.integers(0, 17, (1, T), dtype=np.int32), targets[:1]
    if kind == "all rows equal":
        return np.tile(rng.integers(0, 17, T, dtype=np.int32), (B, 1)), targets
    if kind == "nothing shared":
        return (np.arange(B * T, dtype=np.int32).reshape(T, B).T + seed) % 17, targets
    assert kind == "shared beginnings"
    inputs = np.stack([rng.integers(0, 1 + t, B) for t in range(T)], axis=1).astype(np.int32)
    inputs[B // 2] = inputs[0]  # the same row, once with the same targets and once with others
    targets[B // 2] = targets[0]
    inputs[B - 1] = inputs[0]
    return inputs, targets


# Kinds of batches, each with what a node is taken to cost more than a position: 0 makes a tree of whatever comes.
BATCHES = [
    ("shared beginnings", passes.EXTRA_PER_POSITION),
    ("all rows equal", passes.EXTRA_PER_POSITION),
    ("nothing shared", passes.EXTRA_PER_POSITION),
    ("nothing shared", 0),
    ("one row", 0),
]


def shape_of(**changes: int) -> GPTConfig:
    return config(**{"max_seq_len": T, "n_embd": 12} | changes)


def switched(switches: dict[str, bool], **changes: object) -> EngineConfig:
    return replace(CUDA_ON_HOST, **switches, **changes)


def trained_with(
    switches: dict[str, bool], counted: tuple[int, ...] | None, device: HostDevice, model: GPTConfig, **changes: object
) -> CudaEngine:
    settings = {"batch_size": 9} | changes
    precision = settings.pop("precision", Precision.fp32)
    spec = spec_for(model, counted, switched(switches, precision=precision), **settings)
    return CudaEngine(spec, random_params(model), device)


def flat(trained: CudaEngine, name: str) -> dict[str, np.ndarray]:
    """Return the 16 tensors of arena array `name` as the device holds them, the key bias left out.

    A softmax ignores the key bias: its gradient is rounding noise around zero, which AdamW turns into steps.
    """
    whole, tensors, end = trained._device.download(trained._arena[name]), {}, 0
    C = trained._config.n_embd
    for tensor, shape in tensor_shapes(trained._config).items():
        begin, end = end, end + int(np.prod(shape))
        tensors[tensor] = whole[begin:end].reshape(shape)
    tensors["qkvb"] = np.delete(tensors["qkvb"], np.s_[C : 2 * C], 1)
    return tensors


def limit_of(model: GPTConfig, rows: int, *, compute: str = "fp32", store: str = "fp32") -> float:
    """As in test_cuda_engine.py: a gradient crosses all layers twice and meets four roundings at each."""
    longest = max(rows, model.n_hidden, model.vocab_size)
    return (2 * model.n_layer + 1) * tolerance(terms=longest, compute=compute, store=store, roundings=4)


@pytest.mark.parametrize("counted", COUNTED.values(), ids=COUNTED)
def test_every_switch_leaves_loss_gradients_and_accuracy_as_they_are(monkeypatch, counted):
    model = shape_of(fc1_band=9)
    runs = [(switches, 9) for switches in SWITCHES.values()] + [(SWITCHES["skip, share"], 4)]
    *others, plain = [
        trained_with(switches, counted, HostDevice(float64=True), model, micro_batch_size=micro)
        for switches, micro in sorted(runs, key=lambda run: run[0] == PLAIN)
    ]
    for kind, extra in BATCHES:
        monkeypatch.setattr(passes, "EXTRA_PER_POSITION", extra)
        inputs, targets = rows_of(kind)
        limit = limit_of(model, inputs.size, compute="fp64", store="fp64")
        loss, _ = plain.loss_and_gradients(inputs, targets)
        expected, evaluated = flat(plain, "gradients"), plain.evaluate(inputs, targets)
        for found in others:
            assert found.loss_and_gradients(inputs, targets)[0] == pytest.approx(loss, rel=limit)
            for name, gradient in flat(found, "gradients").items():
                check = compare(f"{kind}: {name}", gradient, expected[name], limit)
                assert check.passed, check
            again = found.evaluate(inputs, targets)
            assert (again.n_correct, again.n_counted) == (evaluated.n_correct, evaluated.n_counted)
            assert again.loss_sum == pytest.approx(evaluated.loss_sum, rel=limit)


@pytest.mark.parametrize("counted", [None, (2,), (1, 3, 4)], ids=str)
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_gradients_are_as_near_to_those_of_the_reference_as_rounding_allows(precision, counted):
    model = shape_of(n_embd=20, fc2_band=7)
    inputs, targets = rows_of("shared beginnings")
    params = random_params(model, std=0.2 if precision is Precision.fp32 else 0.05)
    spec = spec_for(model, counted, CUDA_ON_HOST, batch_size=9)
    loss, expected = reference(spec, params).loss_and_gradients(inputs, targets)
    limit = limit_of(model, inputs.size, store=precision.name)
    for switches in SWITCHES.values():
        ours = create_engine(replace(spec, engine=switched(switches, precision=precision)), params)
        found_loss, found = ours.loss_and_gradients(inputs, targets)
        assert abs(found_loss - loss) <= limit * loss
        assert_near(found, expected, model, limit)
        for name, mask in banded_tensors(model).items():
            assert not found[name][:, ~mask].any()


@pytest.mark.parametrize("counted", [pytest.param(None, marks=pytest.mark.slow), (1, 3)], ids=str)
def test_parameters_after_twenty_updates_are_the_same(counted):
    model, steps, rate = shape_of(), 20, 1e-3
    runs = {}
    for name, switches in SWITCHES.items():
        run = trained_with(switches, counted, HostDevice(float64=True), model)
        norms = []
        for step in range(steps):
            run.train_step(*rows_of("shared beginnings", seed=step), learning_rate=rate)
            norms.append(run.result().grad_norm)
        runs[name] = flat(run, "parameters"), max(norms), run.result().loss
    expected, norm, loss = runs.pop("whole, apart")
    # A gradient that is off by `noise` moves a parameter by up to rate * noise / epsilon more or less.
    noise = limit_of(model, 9 * T, compute="fp64", store="fp64") * norm
    for name, (found, _, last) in runs.items():
        assert last == pytest.approx(loss, rel=1e-6), name
        for tensor, values in found.items():
            np.testing.assert_allclose(
                values, expected[tensor], rtol=0, atol=steps * rate * noise / 1e-8, err_msg=f"{name}: {tensor}"
            )


@pytest.mark.parametrize(
    ("kind", "n_layer", "counted"),
    [
        ("shared beginnings", 2, (1, 3)),
        ("shared beginnings", 1, (4,)),
        ("shared beginnings", 2, None),
        ("nothing shared", 2, (1, 3)),
    ],
)
def test_gradients_equal_finite_differences_in_float64(kind, n_layer, counted):
    model = shape_of(n_layer=n_layer, n_embd=8)
    inputs, targets = rows_of(kind)
    trained = trained_with(SWITCHES["skip, share"], counted, HostDevice(float64=True), model)
    trained.loss_and_gradients(inputs, targets)
    gradient, values = (trained._device.download(trained._arena["gradients"]), trained._arena["parameters"])
    rng, step, end = np.random.default_rng(3), 1e-5, 0
    for name, shape in tensor_shapes(model).items():
        begin, end = end, end + int(np.prod(shape))
        for i in rng.choice(np.arange(begin, end), size=2, replace=False):
            value, losses = float(values[i]), []
            for moved in (value + step, value - step):
                values[i] = moved
                losses.append(trained.loss_and_gradients(inputs, targets)[0])
            values[i] = value
            assert gradient[i] == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("precision", [Precision.fp32, pytest.param(Precision.bf16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("counted", [None, (1, 3)], ids=str)
@pytest.mark.parametrize("kind", ["shared beginnings", "nothing shared"])
def test_every_access_is_in_bounds_ordered_and_initialised(precision, counted, kind):
    model = shape_of(n_embd=20, fc1_band=9)
    run = trained_with(
        SWITCHES["skip, share"], counted, HostDevice(checked=True), model, micro_batch_size=5, precision=precision
    )
    for seed in range(2):
        run.train_step(*rows_of(kind, seed=seed), learning_rate=1e-3)
    assert np.isfinite(run.result().loss)
    run.evaluate(*rows_of(kind, B=12))
    run.logits(rows_of(kind)[0], last_only=True)
    run.logits(rows_of(kind)[0])


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_two_runs_and_one_with_threads_in_reverse_order_end_with_the_same_bits(precision):
    model, ends = shape_of(), []
    for device in (HostDevice(), HostDevice(), HostDevice(reverse=True)):
        run = trained_with(SWITCHES["skip, share"], (1, 3), device, model, micro_batch_size=5, precision=precision)
        for step in range(3):
            run.train_step(*rows_of("shared beginnings", seed=step), learning_rate=1e-2)
        ends.append(run.parameters() | run.moments())
    for other in ends[1:]:
        for name, array in ends[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_batch_that_comes_again_is_uploaded_once_and_again_after_an_evaluation(monkeypatch):
    model, copied = shape_of(), []
    run = trained_with(SWITCHES["skip, share"], (2,), HostDevice(), model, micro_batch_size=5)
    other = trained_with(SWITCHES["skip, share"], (2,), HostDevice(), model, micro_batch_size=5)
    batch = rows_of("shared beginnings")
    for array in batch:
        array.flags.writeable = False
    upload = HostDevice.upload
    monkeypatch.setattr(
        run._device, "upload", lambda target, values: (copied.append(values.size), upload(run._device, target, values))
    )
    counts = []
    for between in (None, None, run.evaluate, run.logits, None):
        if between is not None:
            between(*rows_of("shared beginnings", seed=1)[: 2 if between == run.evaluate else 1])
        copied.clear()
        for each in (run, other):
            each.train_step(*batch, learning_rate=1e-2)
        counts.append(len(copied))
    assert counts == [4, 2, 4, 4, 2]  # two passes and, at each step, the schedule and the step's number
    for name, array in other.parameters().items():
        np.testing.assert_array_equal(run.parameters()[name], array, err_msg=name)


def test_what_is_left_out_is_not_planned_for():
    model = config(max_seq_len=8, n_embd=12)
    spec = spec_for(model, (2,), switched(SWITCHES["skip, share"]), batch_size=40)
    run = CudaEngine(spec, init_params(model, seed=0), HostDevice())
    assert run.memory.rows == 40 * 3
    whole = CudaEngine(replace(spec, engine=switched(PLAIN)), init_params(model, seed=0), HostDevice())
    assert whole.memory.rows == 40 * 8
    assert run.memory.n_bytes < whole.memory.n_bytes


@st.composite
def trees(draw: st.DrawFn) -> tuple[PrefixTree, int, int]:
    """A tree, and the positions and counted positions of the rows it was made from."""
    B, length, variety = draw(st.integers(1, 60)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    counted = sorted(draw(st.sets(st.integers(0, length - 1), min_size=1)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, targets = rng.integers(0, variety, (B, length)), rng.integers(0, 9, (B, len(counted)))
    return build_tree(rows, targets, np.array(counted), trims_last=draw(st.booleans())), B * length, targets.size


@settings(max_examples=100)
@given(trees(), st.booleans())
def test_padding_is_nodes_that_nothing_looks_at_and_logits_without_targets(drawn, pads):
    tree, most_nodes, most_logits = drawn
    n, m, length = tree.n_nodes, len(tree.counted), tree.path.shape[1]
    B = most_nodes // length
    (found,) = tree_arrays([tree], B, length, most_logits // B, 9, pads=pads)
    nodes, logits = len(found["tokens"]), len(found["counted"])
    assert n <= nodes <= most_nodes and m <= logits <= most_logits
    assert pads or (nodes, logits) == (n, m)
    room = block_lengths(B, length, most_logits // B, 9, tree=True)
    assert all(found[name].size <= room[name] for name in found) and room.keys() == found.keys()

    np.testing.assert_array_equal(found["path"][:n], tree.path)
    assert found["path"][:n].max() < n  # no node sees padding
    assert (found["path"][n:] == np.arange(n, nodes)[:, None]).all() and not found["positions"][n:].any()
    np.testing.assert_array_equal(found["counted"][:m], tree.counted)
    assert (np.diff(found["counted"]) > 0).all() and (found["counted"][m:] >= n).all()
    np.testing.assert_array_equal(found["slots"][found["counted"]], np.arange(logits))
    assert (found["slots"] >= 0).sum() == logits
    assert (found["pair_begins"][m:] == len(tree.targets)).all()
    for order, segments, keys in (
        ("order", "segments", "tokens"),
        ("position_order", "position_segments", "positions"),
    ):
        ends = found[segments][1:]
        assert ends[found[segments][0]] == n and sorted(found[order][:n]) == list(range(n))
        assert (np.diff(found[keys][found[order][:n]]) >= 0).all()
    for prefix, queries in (("", np.arange(nodes)), ("counted_", found["counted"])):
        items = found[f"{prefix}items"]
        if prefix and not tree.trims_last:
            assert not len(items)
            continue
        assert items[:, 3].max() < key_work_sizes(most_nodes, most_nodes, length)[2]  # rows of partial sums planned
        seen = {key: [] for key in range(nodes)}
        for key, first, end, _ in items[items[:, 0] >= 0]:
            seen[key].extend(queries[first:end])
        for key, by in seen.items():
            assert by == [node for node in queries if key in found["path"][node]]


def test_sizes_of_a_tree_that_differ_a_little_are_padded_to_few():
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(40):
        rows = np.stack([np.zeros(512, dtype=int), *rng.integers(0, 97, (2, 512)), np.ones(512, dtype=int)], axis=1)
        tree = build_tree(rows, rng.integers(0, 97, (512, 1)), np.array([3]), trims_last=True)
        (found,) = tree_arrays([tree], 512, 4, 1, 99, pads=True)
        assert len(found["tokens"]) <= 1.125 * tree.n_nodes
        shapes.add(tuple(array.shape for array in found.values()))
    assert len(shapes) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("counted", [pytest.param(None, marks=pytest.mark.slow), (1, 3)], ids=str)
def test_passes_go_with_banded_products(counted):
    model = shape_of(fc1_band=6, fc2_band=9)
    tiles = {"fc1": {"forward": 20, "input": 16, "weight": 12}, "fc2": {"forward": 16, "input": 24, "weight": 20}}
    spec = spec_for(model, counted, switched(SWITCHES["skip, share"]), batch_size=9, micro_batch_size=5)
    plain = trained_with(PLAIN, counted, HostDevice(float64=True), model)
    for checked in (False, True):
        device = HostDevice(float64=True, checked=checked)
        found = CudaEngine(spec, random_params(model), device, mlp_tiles=tiles)
        for kind in ("shared beginnings", "nothing shared"):
            inputs, targets = rows_of(kind)
            limit = limit_of(model, inputs.size, compute="fp64", store="fp64")
            loss, _ = plain.loss_and_gradients(inputs, targets)
            found_loss, _ = found.loss_and_gradients(inputs, targets)
            assert found_loss == pytest.approx(loss, rel=limit)
            kept = banded_tensors(model)
            for name, gradient in flat(plain, "gradients").items():
                ours = flat(found, "gradients")[name]
                ours, gradient = (x * kept[name] if name in kept else x for x in (ours, gradient))
                check = compare(name, ours, gradient, limit)
                assert check.passed, check
            assert found.evaluate(inputs, targets).n_correct == plain.evaluate(inputs, targets).n_correct
