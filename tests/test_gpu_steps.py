"""tools/gpu/steps.py, rehearsed on the host device: which sides it refuses to time, and what it divides by what."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def case_of_fp32(gpu_check):
    """The smallest case whose sides differ by rounding in fp32 only."""
    from gpu.cases import chosen_cases

    return chosen_cases(["equations 256x8 fp32 answer only"], rehearsal=True)[0]


def timed(case, gpu_check) -> dict:
    from gpu.clock import Budget
    from gpu.steps import time_cases

    [row] = time_cases([case], gpu_check.DeviceChoice.host, Budget(100.0), rehearsal=True)
    return row


@pytest.mark.parametrize("mistake", ["weight_decay", "beta2", "grad_clip", "exact GELU", "not compiled alike"])
def test_a_peer_that_trains_otherwise_is_not_timed(gpu_check, case_of_fp32, monkeypatch, mistake):
    from gpu import peer

    whole = peer.Peer.__init__

    def changed(self, case, params, optim, device, **options):
        values = {"weight_decay": 0.0, "beta2": 0.999, "grad_clip": 1e9}
        optim = replace(optim, **{mistake: values[mistake]}) if mistake in values else optim
        whole(self, case, params, optim, device, **options)
        if mistake == "exact GELU":
            self.model.h[0].mlp[1].approximate = "none"
        if mistake == "not compiled alike":
            self._mean_loss = lambda *batch: 1.001 * self.model.loss(*batch)

    monkeypatch.setattr(peer.Peer, "__init__", changed)
    row = timed(case_of_fp32, gpu_check)
    assert row["status"].startswith("failed: EngineError: ours and PyTorch, eager, differ: ") and row["ratio"] is None


def test_our_step_that_leaves_out_too_much_is_not_timed(gpu_check, case_of_fp32, monkeypatch):
    from gpu import steps

    whole = steps.Ours.__init__

    def changed(self, case, params, device, **keys):
        whole(self, replace(case, counted=None) if keys else case, params, device, **keys)

    monkeypatch.setattr(steps.Ours, "__init__", changed)
    row = timed(case_of_fp32, gpu_check)
    assert row["status"].startswith("failed: EngineError: ours and the same with everything computed differ: ")


def test_ratios_say_how_many_times_longer_the_other_side_takes(gpu_check, case_of_fp32, monkeypatch):
    from gpu import steps
    from gpu.peer import Peer

    def seconds(step, batches, n):
        step([batches[0]] * n)
        side = step.__self__
        return 8.0 if isinstance(side, Peer) else 6.0 if not side.engine._spec.engine.skip_uncounted else 2.0

    monkeypatch.setattr(steps, "_seconds", seconds)
    row = timed(case_of_fp32, gpu_check)
    assert row["status"] == "ok"
    assert (row["ratio"]["median"], row["saved"]["median"]) == (4.0, 3.0)
    assert [row[side]["ms"]["median"] for side in ("ours", "torch", "everything")] == [2000, 8000, 6000]


def test_a_batch_that_comes_again_is_not_copied_to_the_peer_again(gpu_check, case_of_fp32):
    import torch
    from bench_equal import OPTIM
    from gpu.cases import batches_of
    from gpu.peer import Peer

    from gpt2lab.model.init import init_params

    model = case_of_fp32.model
    peer = Peer(case_of_fp32, init_params(model, seed=0), OPTIM, torch.device("cpu"), compiled=False)
    assert len(peer.model.wte.weight) == model.padded_vocab_size > model.vocab_size
    one, other = batches_of(replace(case_of_fp32, prime=None), 2)
    whole, again, next_one = peer.pin_all([one, one, other])
    assert whole is again and next_one is not whole
    copies = []
    static = [SimpleNamespace(copy_=lambda values, **_: copies.append(values)) for _ in range(2)]
    peer._update = lambda: None
    peer._static = tuple(static)
    peer.steps([whole, again, next_one, next_one, whole])
    assert [id(values) for values in copies] == [id(part) for batch in (whole, next_one, whole) for part in batch]
