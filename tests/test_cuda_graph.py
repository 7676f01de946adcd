"""A step that is recorded once and replayed, on a host device that records as a card does."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from tiny_models import CUDA_ON_HOST, batch, config

from gpt2lab.engine import EngineSpec
from gpt2lab.engine.cuda.device import Array, Module
from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.engine.cuda.gemm import Epilogue
from gpt2lab.engine.cuda.gemm.host import HostGemm
from gpt2lab.engine.cuda.ops.banded_linear import DENSE
from gpt2lab.engine.cuda.passes import DevicePass
from gpt2lab.engine.passes import planner as passes
from gpt2lab.model.init import init_params
from gpt2lab.schema import OptimConfig


class RecordingDevice(HostDevice):
    """Keeps each call of a capture, with the arrays and numbers it has at that moment, and runs none."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[Callable[[], None]] | None = None
        self.captures = 0

    def queue(self, call: Callable[..., None], *arguments: object, **names: object) -> None:
        now = functools.partial(call, *arguments, **names)
        if self.recorded is None:
            now()
        else:
            self.recorded.append(now)

    def compile(self, file: str, defines: Mapping[str, int]) -> Module:
        module = super().compile(file, defines)
        launch = module.launch
        module.launch = lambda *sides, **arguments: self.queue(launch, *sides, **arguments)
        return module

    def fill_zero(self, target: Array) -> None:
        self.queue(super().fill_zero, target)

    def upload(self, target: Array, source: np.ndarray) -> None:
        assert self.recorded is None, "a graph would copy the same values at every replay"
        super().upload(target, source)

    def download(self, source: Array) -> np.ndarray:
        assert self.recorded is None, "a capture cannot wait"
        return super().download(source)

    def capture(self, record: Callable[[], None]) -> Callable[[], None]:
        self.recorded = calls = []
        record()
        self.recorded = None
        self.captures += 1

        def replay() -> None:
            for call in calls:
                call()

        return replay


BANDED = {"fc1": {"forward": 20, "input": 16, "weight": 12}, "fc2": {"forward": 16, "input": 24, "weight": 20}}


@pytest.fixture(autouse=True)
def recorded_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that a RecordingDevice records as it does its kernels."""
    matmul = HostGemm.matmul

    def queue_matmul(
        gemm: HostGemm, out: Array, a: Array, b: Array, epilogue: Epilogue | None = None, **options: bool
    ) -> bool:
        queue = getattr(gemm._device, "queue", None)
        if queue is None or epilogue is not None:
            return matmul(gemm, out, a, b, epilogue, **options)
        queue(matmul, gemm, out, a, b, **options)
        return True

    prepare = HostGemm.prepare_pointers

    def prepare_before(gemm: HostGemm, *views: Sequence[Array], **options: Any) -> Callable[[], None]:
        recorded = getattr(gemm._device, "recorded", None)
        assert recorded is None, "a card uploads addresses here, which a graph would do at every replay"
        return prepare(gemm, *views, **options)

    monkeypatch.setattr(HostGemm, "matmul", queue_matmul)
    monkeypatch.setattr(HostGemm, "prepare_pointers", prepare_before)


@pytest.mark.parametrize("counted", [None, (2, 5)])
@pytest.mark.parametrize("tiles", [DENSE, BANDED], ids=["dense", "banded"])
def test_a_replayed_step_does_what_a_queued_one_does(tiles, counted):
    model = config(fc1_band=6, fc2_band=9)
    optim = OptimConfig(grad_clip=0.5)
    spec = EngineSpec(
        model=model, optim=optim, engine=CUDA_ON_HOST, counted=counted, batch_size=6, seq_len=10, micro_batch_size=4
    )
    device = RecordingDevice()
    queued, replayed = (
        CudaEngine(spec, init_params(model, seed=0), each, mlp_tiles=tiles) for each in (HostDevice(), device)
    )
    replayed._graph = True  # only a card may ask for it
    for step, B in enumerate((6, 6, 3, 6, 3, 3, 6)):
        for trained in (queued, replayed):
            trained.train_step(*batch(B, seed=step), learning_rate=1e-2 / (step + 1))
        assert replayed.result() == queued.result()
        assert replayed.evaluate(*batch(seed=99)) == queued.evaluate(*batch(seed=99))
    assert device.captures == 2  # one for each shape, when it comes for the second time
    for name, array in (queued.parameters() | queued.moments()).items():
        np.testing.assert_array_equal((replayed.parameters() | replayed.moments())[name], array, err_msg=name)


@pytest.mark.parametrize(("counted", "micro"), [((3,), 40), ((2, 5), 10), (None, 24)], ids=str)
def test_trees_that_differ_from_step_to_step_take_few_graphs(counted, micro):
    model = config(max_seq_len=6, n_embd=8, n_layer=1)
    spec = EngineSpec(
        model=model, optim=OptimConfig(), engine=CUDA_ON_HOST, counted=counted, batch_size=40, micro_batch_size=micro
    )
    device, sizes = RecordingDevice(), set()
    queued, replayed = (CudaEngine(spec, init_params(model, seed=0), each) for each in (HostDevice(), device))
    replayed._graph = True
    rng = np.random.default_rng(1)
    for _ in range(16):
        inputs = np.concatenate([rng.integers(0, 2, (40, 2)), rng.integers(0, 3, (40, 4))], axis=1).astype(np.int32)
        targets = rng.integers(0, 3, (40, 6), dtype=np.int32)
        for trained in (queued, replayed):
            trained.train_step(inputs, targets, learning_rate=1e-2)
        assert replayed.result() == queued.result()
        sizes.add(tuple(part.n_nodes for part in replayed._training.passes(inputs, targets, micro)))
    assert 1 <= device.captures <= len(replayed._updates) <= len(sizes) / 2
    for name, array in (queued.parameters() | queued.moments()).items():
        np.testing.assert_array_equal((replayed.parameters() | replayed.moments())[name], array, err_msg=name)


def uploaded(trained: CudaEngine, rows: np.ndarray, *, repeats: bool = False) -> list[DevicePass]:
    planned = trained._training.passes(rows, rows, trained._workload.micro_batch_size)
    return trained._uploads.upload(planned, repeats=repeats)


def test_trees_of_rows_of_different_lengths_take_graphs_of_their_own(monkeypatch):
    monkeypatch.setattr(passes, "EXTRA_PER_POSITION", 0)
    spec = EngineSpec(
        model=config(max_seq_len=3, n_embd=8), optim=OptimConfig(), engine=CUDA_ON_HOST, batch_size=3, seq_len=3
    )
    device = RecordingDevice()
    queued, replayed = (CudaEngine(spec, init_params(spec.model, seed=0), each) for each in (HostDevice(), device))
    replayed._graph = True
    # Trees of as many nodes and logits, padding counted, of as many targets: only the width of `path` differs.
    batches = [np.array(rows, dtype=np.int32) for rows in ([[1, 2], [1, 3], [1, 2]], [[1, 2, 3], [1, 2, 4]])]
    (short,), (long,) = (uploaded(replayed, rows) for rows in batches)
    assert (short.T, short.n_logits, short.place) == (long.T, long.n_logits, long.place)
    for rows in (batches[0], batches[0], batches[1], batches[1], batches[0]):
        for trained in (queued, replayed):
            trained.train_step(rows, rows + 1, learning_rate=1e-2)
        assert replayed.result() == queued.result()
    assert device.captures == 2


@pytest.mark.parametrize("repeats", [False, True])
def test_a_pass_begins_at_the_same_place_whatever_kinds_the_passes_before_it_are(repeats):
    model = config(max_seq_len=6, n_embd=8, n_layer=1)
    spec = EngineSpec(
        model=model, optim=OptimConfig(), engine=CUDA_ON_HOST, batch_size=30, micro_batch_size=10, seq_len=6
    )
    trained = CudaEngine(spec, init_params(model, seed=0), HostDevice())
    shared = np.ones((10, 6), dtype=np.int32)
    apart = (np.arange(60, dtype=np.int32).reshape(6, 10).T) % 17
    keys, places = set(), set()
    for kinds in itertools.product((shared, apart), repeat=3):
        rows = np.concatenate(kinds)
        found = uploaded(trained, rows, repeats=repeats)
        assert [of.is_tree for of in found] == [kind is shared for kind in kinds]
        keys |= {(i, of.key) for i, of in enumerate(found)}
        places.add(tuple(of.place[0] for of in found))
    assert len(places) == 1 and len(keys) == 2 * 3
