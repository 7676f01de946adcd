"""Updates with rows that begin alike, shared or not: the case `sharing` of tools/bench.py.

It shows with how many nodes a tree still pays (`EXTRA_PER_POSITION`). Batches are fresh ones: their trees are built at
each update. Shapes: B rows, T positions.
"""

import statistics
from typing import Any
from unittest.mock import patch

import numpy as np
from bench_equal import Batch
from bench_peers import our_engine, update
from bench_turns import in_turns, ratio

from gpt2lab.engine.passes import PassPlanner, PrefixTree, build_tree
from gpt2lab.engine.passes import planner as passes
from gpt2lab.model.params import GPTConfig

ALIKE = 8  # rows that begin alike
SHAPES = {(1024, 8): (0, 1, 2, 4), (512, 16): (0, 2, 4, 8), (256, 32): (0, 4, 8, 12, 16)}  # (B, T): positions alike
VOCABULARY = 1000  # so that no more is shared by chance, or hardly


def rows_alike(B: int, T: int, shared: int) -> Batch:
    """Return a batch of which each `ALIKE` rows have their first `shared` tokens in common."""
    rng = np.random.default_rng(1)
    inputs, targets = rng.integers(0, VOCABULARY, (2, B, T), dtype=np.int32)
    inputs[:, :shared] = np.repeat(inputs[::ALIKE, :shared], ALIKE, axis=0)
    return inputs, targets


def bench_sharing() -> dict[str, Any]:
    """Measure updates of a small model, 2 layers of 128 channels, with trees against the same without."""
    found = {}
    for (B, T), prefixes in SHAPES.items():
        model = GPTConfig(n_layer=2, n_head=4, n_embd=128, max_seq_len=T, vocab_size=VOCABULARY)
        for shared in prefixes:
            batch = rows_alike(B, T, shared)
            engines = {on: our_engine(model, batch, share_prefixes=on) for on in (True, False)}
            with patch.object(passes, "EXTRA_PER_POSITION", 0):  # trees also where they would not be taken
                times = in_turns({str(on): update(engine, batch) for on, engine in engines.items()}, rounds=9)
            times |= in_turns({"tree": lambda batch=batch: build_tree(*batch, None)}, rounds=9)
            planned = PassPlanner(None, skip_uncounted=True, share_prefixes=True).passes(*batch, B)[0]
            found[f"{B}x{T} {shared}"] = {
                "nodes": build_tree(*batch, None).n_nodes / batch[0].size,
                "taken": isinstance(planned, PrefixTree),
                "build_ms": 1000 * statistics.median(times["tree"]),  # what it costs in vain where no tree is taken
                **ratio(times["True"], times["False"]),
            }
    return found
