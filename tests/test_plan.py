"""What `gpt2lab plan` says of memory is what the run then allocates."""

import re
import shutil

import pytest

from gpt2lab.compose import compose
from gpt2lab.engine import cuda_host
from gpt2lab.engine.cuda_blas import WORKSPACE_BYTES
from gpt2lab.engine.cuda_source import find_cuda_folder
from gpt2lab.errors import EngineError
from gpt2lab.train import setup
from gpt2lab.train.plan import describe, make_plan, memory_of
from gpt2lab.train.setup import prepare_parts

TINY = ["model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.max_seq_len=32", "engine=cuda"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.batch_size=5"],
        ["train.batch_size=5", "train.micro_batch_size=2", "engine.precision=bf16"],
        ["train.batch_size=1", "train.seq_len=8"],
        ["data=modular", "data.prime=11", "masking=task_position", "train.batch_size=full", "train.micro_batch_size=7"],
    ],
    ids=" ".join,
)
def test_a_run_allocates_what_was_planned_for_it(overrides):
    config = compose([*TINY, *overrides, "engine.device=host"])
    planned = memory_of(make_plan(config))
    assert prepare_parts(config).engine.plan == planned
    on_card = memory_of(make_plan(compose([*TINY, *overrides])))
    assert on_card.n_bytes == planned.n_bytes + WORKSPACE_BYTES


def test_a_plan_ends_with_whether_the_run_is_possible_here():
    def last(*overrides: str) -> str:
        return " ".join(describe(make_plan(compose(list(overrides))))[-1])

    assert last("engine=cuda", "engine.device=host") == "here it fits"
    too_large = last("engine=cuda", "engine.device=host", "model=gpt2_xl", "train.batch_size=400")
    assert re.search(r"does not run: engine=cuda needs .* free; ", too_large)
    assert "PyTorch allocates as it goes" in last()
    assert "not planned: model.n_embd=8192" in last("model.n_embd=8192", "model.n_head=64")
    with pytest.raises(EngineError, match="heads of 300 channels"):
        last("engine=cuda", "engine.device=host", "model.n_embd=300", "model.n_head=1")


def test_what_does_not_fit_is_refused_before_parameters_are_drawn(monkeypatch):
    monkeypatch.setattr(setup, "init_params", lambda *_, **__: pytest.fail("drawn for nothing"))
    config = compose(["engine=cuda", "engine.device=host", "model=gpt2_xl", "train.batch_size=400"])
    with pytest.raises(EngineError, match=r"the device has .* free"):
        prepare_parts(config)


def test_a_run_can_watch_every_access_of_its_kernels(monkeypatch, tmp_path):
    cuda = tmp_path / "cuda"
    shutil.copytree(find_cuda_folder(), cuda)
    kernel = (cuda / "gelu.cu").read_text()
    assert "store_pack(gradient + pack * VEC, dy[i]);" in kernel
    (cuda / "gelu.cu").write_text(kernel.replace("gradient + pack * VEC, dy", "gradient + pack * VEC + VEC, dy"))
    monkeypatch.setattr(cuda_host, "find_cuda_folder", lambda: cuda)
    config = compose([*TINY, "engine.device=host", "engine.checked=true", "train.batch_size=1"])
    parts = prepare_parts(config)
    with pytest.raises(EngineError, match=r"gelu_backward: .*`gradient"):
        parts.engine.train_step(*parts.batches.batch(0), learning_rate=1e-3)
