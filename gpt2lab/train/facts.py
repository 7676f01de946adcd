"""What a run records when it begins: config, source, and what its data, model and engine are."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpt2lab.data import unigram_entropy
from gpt2lab.engine import plan_engine
from gpt2lab.model.flops import count_active_parameters, dense_flop_per_token
from gpt2lab.model.params import count_parameters
from gpt2lab.record.disk import file_sha256
from gpt2lab.record.provenance import collect
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.source_archive import find_source_root, write_source_archive
from gpt2lab.schema import DeviceChoice, plain
from gpt2lab.train.setup import Parts


def begin_record(
    run: RunDir, parts: Parts, facts: dict[str, Any], *, overrides: list[str], command: list[str]
) -> list[str]:
    """Write config, overrides, provenance and the source that runs; return warnings (none)."""
    settings, root = plain(parts.config), find_source_root()
    run.write_config(settings)
    run.write_overrides(overrides)
    run.write_provenance(collect(command=command, config=settings, source_root=root, **facts))
    write_source_archive(run.source_archive, root)
    return []


def data_facts(parts: Parts) -> dict[str, Any]:
    """Return what the data is: sizes, hashes, vocabulary, entropy of the validation split's own token frequencies."""
    source = parts.source
    return {
        "name": source.name,
        "vocab_size": source.vocab_size,
        "tokenizer": source.tokenizer.name,
        "row_len": source.row_len,
        "answer_span": source.answer_span,
        "answer_choices": source.answer_choices,
        "best_loss": None if source.best_loss is None else [float(x) for x in source.best_loss],
        "splits": {name: {"tokens": s.n_tokens, "bytes": s.n_bytes} for name, s in source.splits.items()},
        "unigram_entropy": unigram_entropy(source.splits["val"], parts.spec.model.vocab_size),
        "files": source.files,
        "detail": source.detail,
    }


def model_facts(parts: Parts) -> dict[str, Any]:
    """Return shape, counts and the losses that bound it."""
    spec, batches, best_loss = parts.spec, parts.batches, parts.source.best_loss
    model, counted = spec.model, None if spec.counted is None else list(spec.counted)
    weights = parts.config.model.init_from
    engine = replace(spec.engine, device=DeviceChoice[parts.engine.device])
    plan = plan_engine(replace(spec, engine=engine), batches.batch(0))  # of the first update, on this device
    work = plan.work
    if best_loss is not None and counted is not None:
        best_loss = best_loss[counted]
    return {
        **asdict(model),
        "n_params": count_parameters(model),
        "n_params_active": count_active_parameters(model),
        "flop_per_token_dense": dense_flop_per_token(model, batches.seq_len),
        "flop_per_token_computed": work.flop_per_token,
        "counted_positions": counted,
        "seq_len": batches.seq_len,
        "batch_size": batches.batch_size,
        "tokens_per_step": batches.tokens_per_batch,
        "best_val_loss": None if best_loss is None else float(best_loss.mean()),  # nats per counted token
        "random_guess_loss": math.log(model.vocab_size),
        "init_from_sha256": file_sha256(Path(weights)) if weights and Path(weights).is_file() else None,
        "work": {
            "positions": work.positions,
            "nodes": work.counts.rows,
            "passes": work.passes,
            "trees": work.trees,
            "last_layer_rows": work.counts.last_rows,
            "logit_rows": work.counts.logit_rows,
        },
        "mlp_tiles": parts.engine.mlp_tiles,
        "why_dense": plan.why_dense,
    }


def engine_facts(parts: Parts) -> dict[str, Any]:
    """Return what computed it."""
    keys = ("name", "device", "device_name", "precision", "threads", "deterministic", "device_details")
    return {key: getattr(parts.engine, key) for key in keys}
