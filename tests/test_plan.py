"""What `gpt2lab plan` says of memory is what the run then allocates, and what it says is left out is what is."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gpt2lab.compose import compose
from gpt2lab.engine import plan_engine
from gpt2lab.engine.cuda.device import host as cuda_host
from gpt2lab.engine.cuda.device.sources import find_cuda_folder
from gpt2lab.engine.cuda.gemm.cublas import WORKSPACE_BYTES
from gpt2lab.engine.torch.banded import BandedLinear
from gpt2lab.errors import EngineError, InternalError
from gpt2lab.model.flops import rows_in_words
from gpt2lab.train import setup
from gpt2lab.train.facts import model_facts
from gpt2lab.train.plan import cuda_memory, describe, engine_plan, make_plan
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
    planned = cuda_memory(make_plan(config))
    assert prepare_parts(config).engine.memory == planned
    on_card = cuda_memory(make_plan(compose([*TINY, *overrides])))
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


@pytest.mark.slow
def test_a_run_can_watch_every_access_of_its_kernels(monkeypatch, tmp_path):
    cuda = tmp_path / "cuda"
    shutil.copytree(find_cuda_folder(), cuda)
    kernel = (cuda / "gelu.cu").read_text()
    assert "store_pack(gradient + pack * VEC, dy[i]);" in kernel
    (cuda / "gelu.cu").write_text(kernel.replace("gradient + pack * VEC, dy", "gradient + pack * VEC + VEC, dy"))
    monkeypatch.setattr(cuda_host, "find_cuda_folder", lambda: cuda)
    config = compose([*TINY, "engine.device=host", "engine.checked=true", "train.batch_size=1"])
    parts = prepare_parts(config)
    with pytest.raises(InternalError, match=r"gelu_backward: .*`gradient"):
        parts.engine.train_step(*parts.batches.batch(0), learning_rate=1e-3)


EQUATIONS = ["data=modular", "model=grokking", "train.batch_size=full"]


def left_out(*overrides: str) -> str:
    lines = describe(make_plan(compose(list(overrides))))
    first = [what for what, _ in lines].index("left out")
    until = next(i for i, (what, _) in enumerate(lines) if i > first and what)
    return "\n".join(text for _, text in lines[first:until])


def test_a_plan_says_what_of_equations_need_not_be_computed():
    assert left_out(*EQUATIONS, "masking=task_position").splitlines() == [
        "9,603 prefixes stand for 37,632 positions",
        "the last layer, except keys and values, away from the 4,704 that count",
        "1.86e+10 of 9.36e+10 FLOP are computed in the first step: 5.04 times fewer",
        "(on a CPU; engine.device=auto takes a card where PyTorch finds one)",
    ]
    assert "prefixes stand for 37,632 positions" in left_out(*EQUATIONS)
    assert "last layer" not in left_out(*EQUATIONS)


def test_a_plan_of_text_says_which_positions_the_mask_cuts():
    assert left_out("task_position=[9,16]").splitlines()[:2] == [
        "positions behind the last counted one, 16: 272 of 2,048 stay",
        "the last layer, except keys and values, away from the 128 that count",
    ]
    assert left_out() == "nothing: every position counts, and the products are dense"


def test_a_plan_does_not_guess_what_only_the_data_tells():
    for text in ((), ("sparsity=banded",), ("task_position=[9,16]",)):
        lines = dict(describe(make_plan(compose([*text, "train.batch_size=full"]))))
        assert lines["left out"] == "known when the data is read, and with it the size of the batch"
        assert "products" not in lines["FC1"]
    unknown = "rows that begin alike share that: how many, is known when the data is read"
    assert left_out("train.seq_len=16") == unknown


def test_a_plan_is_one_for_the_device_that_is_asked_for():
    banded = [*EQUATIONS, "sparsity=banded", "fc1_band=9"]
    on_mps = dict(describe(make_plan(compose([*banded, "engine.device=mps"]))))
    assert on_mps["left out"] == "nothing is shared on mps: every row by itself"
    assert on_mps["FC1"].endswith("; dense products (blocks were never timed on mps)")
    on_cpu = dict(describe(make_plan(compose([*banded, "engine.device=cpu"]))))
    assert "prefixes stand for" in on_cpu["left out"] and "blocks of" in on_cpu["FC1"]
    core = ["engine=cuda", "engine.device=host", "engine.precision=bf16", "model.n_embd=36", "sparsity=banded"]
    unaligned = dict(describe(make_plan(compose([*core, "fc1_band=9"]))))
    assert unaligned["FC1"].endswith("; dense products (in bf16 blocks need a multiple of 8 channels)")


@pytest.mark.parametrize("micro", [None, 5])
@pytest.mark.parametrize("masking", ["task_position=[9,16]", "masking=none"])
def test_a_batch_that_was_not_read_is_counted_as_rows_of_which_no_two_begin_alike(masking, micro):
    plan = make_plan(compose([masking, f"train.micro_batch_size={micro or 'null'}", "train.batch_size=12"]))
    unlike = np.arange(12 * plan.seq_len, dtype=np.int32).reshape(12, -1)
    counted = plan_engine(plan.spec, (unlike, unlike))
    assert engine_plan(plan) == counted


def test_blocks_are_chosen_for_the_positions_that_a_mask_leaves():
    banded = ["sparsity=banded", "engine.device=cpu", "train.micro_batch_size=4"]
    whole = engine_plan(make_plan(compose([*banded, "task_position=[3,127]"])))
    cut = engine_plan(make_plan(compose([*banded, "task_position=[3,9]"])))
    assert whole.tiles["fc1"]["forward"] is not None and cut.tiles["fc1"]["forward"] is None
    all_computed = engine_plan(make_plan(compose([*banded, "task_position=[3,9]", "engine.skip_uncounted=false"])))
    assert all_computed.tiles == whole.tiles


@pytest.mark.parametrize("engine", [["engine=torch", "engine.device=cpu"], ["engine=cuda", "engine.device=host"]])
def test_the_record_has_the_blocks_that_the_engine_uses(engine):
    config = compose([*engine, "sparsity=banded", "fc1_band=32", "fc2_band=0", "train.batch_size=4"])
    parts = prepare_parts(config)
    assert model_facts(parts)["mlp_tiles"] is parts.engine.mlp_tiles
    assert parts.engine.mlp_tiles == engine_plan(make_plan(config)).tiles
    if parts.engine.name == "torch":
        mlp = parts.engine._model.blocks[0].mlp
        assert mlp.fc1.cut.tile == parts.engine.mlp_tiles["fc1"]["forward"] and not isinstance(mlp.fc2, BandedLinear)


def test_micro_batches_share_prefixes_each_by_itself():
    plan = make_plan(compose([*EQUATIONS, "train.batch_size=64", "train.micro_batch_size=16"]))
    whole_batch = replace(plan, spec=replace(plan.spec, micro_batch_size=None))
    work, whole = engine_plan(plan).work, engine_plan(whole_batch).work
    assert (work.passes, whole.passes, whole.trees) == (4, 1, 1)
    assert whole.counts.rows < work.counts.rows <= work.positions
    inputs, targets = plan.first_batch
    parts = [plan_engine(plan.spec, (inputs[at : at + 16], targets[at : at + 16])).work for at in (0, 16, 32, 48)]
    assert work.counts.rows == sum(part.counts.rows for part in parts) and work.trees == sum(p.trees for p in parts)


def test_a_mixture_of_trees_and_rows_is_called_one():
    assert rows_in_words(5, 5, 8, trees=2, passes=2) == "5 prefixes stand for 8 positions"
    assert rows_in_words(5, 5, 8, trees=1, passes=2) == "5 rows stand for 8 positions (1 of 2 passes share prefixes)"
    assert rows_in_words(5, 3, 8, trees=0, passes=2) == "5 of 8 positions, 3 in the last layer"
    assert rows_in_words(8, 8, 8, trees=0, passes=2) == "all 8 positions"


def test_a_plan_names_the_keys_that_make_it_compute_more_than_it_must():
    off = left_out(*EQUATIONS, "masking=task_position", "engine.skip_uncounted=false", "engine.share_prefixes=false")
    assert "engine.skip_uncounted=false: positions that no counted one needs are computed" in off
    assert "engine.share_prefixes=false: every row by itself" in off
    assert "1.03 times fewer" in off  # logits
    different = left_out("data=modular", "data.prime=11", "model=grokking", "train.batch_size=2")
    assert different == "too few rows begin alike for sharing to pay"


def test_a_plan_says_how_banded_products_are_done():
    def products(*overrides: str) -> str:
        return dict(describe(make_plan(compose(["sparsity=banded", *overrides]))))["FC1"]

    wide = products("model=gpt2", "train.batch_size=4")
    assert re.search(r"density 8\.19%; products over (\d+) blocks of (\d+) hidden units$", wide)
    off = products("model=gpt2", "train.batch_size=4", "engine.banded_products=false")
    assert off.endswith("; dense products (engine.banded_products=false)")
    assert products("fc1_band=500").endswith("; dense products (blocks would not be faster)")
    assert products("fc1_band=1024").endswith("; the band keeps everything: dense")


def test_a_run_records_the_work_that_was_planned_for_it():
    rows = ["data=modular", "data.prime=11", "model=grokking", "model.n_embd=32", "masking=task_position"]
    config = compose([*rows, "train.batch_size=20", "sparsity=banded", "fc1_band=9", "engine.device=cpu"])
    planned = engine_plan(make_plan(config))
    recorded, work = model_facts(prepare_parts(config)), planned.work
    assert recorded["work"] == {
        "positions": 160,
        "nodes": work.counts.rows,
        "passes": 1,
        "trees": 1,
        "last_layer_rows": 20,
        "logit_rows": 20,
    }
    assert recorded["mlp_tiles"] == planned.tiles
    assert recorded["flop_per_token_computed"] == work.flop_per_token < recorded["flop_per_token_dense"]
