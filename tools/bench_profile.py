"""Where the time of a step goes now: the case `profile` of tools/bench.py."""

from typing import Any

from bench_equal import OPTIM
from bench_masks import RUN
from bench_peers import MINI, gpt2_124m, our_engine, random_batch
from torch.profiler import ProfilerActivity, profile

from gpt2lab.compose import compose
from gpt2lab.engine import Engine
from gpt2lab.train.setup import prepare_parts

SHOWN = 6
UPDATES = 3


def bench_profile() -> dict[str, Any]:
    """Return {case: {operation: share of the processor time}} of the most costly ones, and print them."""
    found = {}
    for name, model, shape in (
        ("124M, bands of 256", gpt2_124m(fc1_band=256, fc2_band=256), (4, 64)),
        ("mini", MINI, (16, 128)),
    ):
        batch = random_batch(model, *shape)
        found[name] = _profile(our_engine(model, batch), batch)
    for name, masking in (("equations, answer only", "task_position"), ("equations, all positions", "none")):
        parts = prepare_parts(compose([*RUN, f"masking={masking}"]))
        found[name] = _profile(parts.engine, parts.batches.batch(0))
    return found


def _profile(engine: Engine, batch: Any) -> dict[str, float]:
    engine.train_step(*batch, learning_rate=OPTIM.learning_rate)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(UPDATES):
            engine.train_step(*batch, learning_rate=OPTIM.learning_rate)
    costs = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(costs.values())
    largest = sorted(costs, key=lambda key: -costs[key])[:SHOWN]
    return {"ms per step": round(total / 1000 / UPDATES, 1)} | {key: round(costs[key] / total, 3) for key in largest}
