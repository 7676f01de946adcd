"""What `gpt2lab plan` says of memory is what the run then allocates."""

from dataclasses import replace

import pytest

from gpt2lab.compose import compose
from gpt2lab.engine.cuda_blas import WORKSPACE_BYTES
from gpt2lab.train.plan import make_plan, memory_of
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
    on_card = memory_of(replace(make_plan(config), on_host=False))
    assert on_card.n_bytes == planned.n_bytes + WORKSPACE_BYTES
    assert make_plan(compose([*TINY, *overrides])).on_host is False
