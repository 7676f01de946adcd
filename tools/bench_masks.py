"""Steps of the equation model against plain PyTorch on the whole batch: the case `masks` of tools/bench.py."""

from typing import Any

from bench_equal import OPTIM
from bench_peers import compare_steps, variants

from gpt2lab.compose import compose
from gpt2lab.train.setup import prepare_parts

# The whole training split at each update, which a run hands over as the same arrays: passes are planned once.
RUN = ["data=modular", "model=grokking", "train.batch_size=full", "engine.device=cpu", "tracker=none"]
RUN += [f"optim.{key}={getattr(OPTIM, key)}" for key in ("learning_rate", "grad_clip", "eps")]


def bench_masks() -> dict[str, Any]:
    """Measure full-batch updates on half the addition table mod 97, with the answer or all positions in the loss."""
    found = {}
    for name, masking in (("answer", "task_position"), ("all", "none")):
        parts = prepare_parts(compose([*RUN, f"masking={masking}"]))
        engine, batch = parts.engine, parts.batches.batch(0)
        peers = variants(parts.spec.model, parts.config.optim, parts.spec.counted)
        found[name] = compare_steps(name, engine, peers, batch, rounds=11, calls=1)
    return found
