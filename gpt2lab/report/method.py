"""The Method section of a report: model, data and training as (key, value) rows, from the record alone."""

import json
from typing import Any

from gpt2lab.model import bands
from gpt2lab.model.band_tiles import PRODUCTS, products_in_words
from gpt2lab.model.flops import rows_in_words
from gpt2lab.report import numbers
from gpt2lab.report.inputs import Inputs, flop_per_token
from gpt2lab.report.markdown import Markdown, code, escape, facts_table, one_line, table
from gpt2lab.report.summary import references

Facts = list[tuple[str, Any]]  # (what, value), None or "" where it was not recorded
MAX_DETAIL = 200  # characters of a value that a data source adds in its own words


def method_tables(inputs: Inputs, summary: dict[str, Any], kind: str) -> list[Markdown]:
    """Return the tables of model, data and training; a fact that was not recorded leaves its row out."""
    tables = {"Model": _model(inputs), "Data": _data(inputs, summary), "Training": _training(inputs, summary)}
    equal = ", equal in all runs" if kind == "sweep" else ""
    told = {name: facts for name, facts in tables.items() if any(value for _, value in facts)}
    return [facts_table(facts, f"{name}{equal}") for name, facts in told.items()]


def matrix_table(inputs: Inputs) -> Markdown | None:
    """Return the matrices of a layer: name, shape, band, kept weights, density (exact)."""
    n_embd = inputs.fact("provenance.model.n_embd")
    if not n_embd:
        return None
    rows = []
    for name, out, inner, band in (
        ("Attention, query, key and value", 3 * n_embd, n_embd, None),
        ("Attention, output", n_embd, n_embd, None),
        ("MLP, FC1", 4 * n_embd, n_embd, inputs.fact("provenance.model.fc1_band") or 0),
        ("MLP, FC2", n_embd, 4 * n_embd, inputs.fact("provenance.model.fc2_band") or 0),
    ):
        kept = out * inner if band is None else bands.kept_weights(n_embd, band)
        width = numbers.MISSING
        if band is not None:
            asked = f" ({band:,} asked)" if band else ""
            width = f"dense{asked}" if bands.is_dense(n_embd, band) else f"{band:,}"
        shape, of = f"{out:,} × {inner:,}", f"{kept:,} of {out * inner:,}"
        rows.append([name, shape, width, of, numbers.percent(kept / (out * inner))])
    matrix = f"Matrix, in each of {inputs.fact('provenance.model.n_layer')} layers"
    return table((matrix, "Shape (out × in)", "Band (hidden units)", "Kept weights", "Density"), rows)


def _model(inputs: Inputs) -> Facts:
    fact = inputs.fact
    model = fact("provenance.model") or {}
    n_embd, vocab, padded = model.get("n_embd"), model.get("vocab_size"), model.get("padded_vocab_size")
    init_from = fact("config.model.init_from")
    layers = f"GPT-2: {model.get('n_layer')} layers, {model.get('n_head')} heads"
    of_seed = " of each run's seed" if fact("config.seed") is None else f", seed {fact('config.seed')}"
    stored, active = model.get("n_params"), model.get("n_params_active")
    params = numbers.count(stored) if stored else None
    if params and active is not None and active != stored:
        params += f" stored, {active:,} in use (without zeros outside bands and padding of the vocabulary)"
    return [
        ("Shape", n_embd and f"{layers}, {n_embd:,} channels, {4 * n_embd:,} hidden units"),
        ("Parameters", params),
        ("Vocabulary", vocab and f"{vocab:,} tokens" + (f", padded to {padded:,}" if padded != vocab else "")),
        ("Positions", model.get("max_seq_len") and f"{model['max_seq_len']:,}"),
        ("FC1", _products(inputs, "fc1")),
        ("FC2", _products(inputs, "fc2")),
        ("Starts from", code(init_from) if init_from else f"random weights{of_seed}"),
    ]


def _products(inputs: Inputs, name: str) -> str | None:
    """Return how the products of a banded matrix were done; None where that was not recorded, or it is dense."""
    model, computed = inputs.fact("provenance.model") or {}, inputs.fact("provenance.model.mlp_tiles") or {}
    n_embd, band = model.get("n_embd"), model.get(f"{name}_band")
    # What the runs of a sweep do not have in common is absent.
    if set(computed.get(name, ())) != set(PRODUCTS) or not n_embd or not band or bands.is_dense(n_embd, band):
        return None
    how = products_in_words(n_embd, computed[name], model.get("why_dense"))
    return f"band {band:,}, density {numbers.percent(bands.density(n_embd, band))}; {how}"


def _data(inputs: Inputs, summary: dict[str, Any]) -> Facts:
    data = inputs.fact("provenance.data") or {}
    splits = data.get("splits") or {}
    facts: Facts = [("Source", f"{data.get('name')}, {data.get('tokenizer')} tokenizer" if data.get("name") else None)]
    for split, name in (("train", "Training split"), ("val", "Validation split"), ("test", "Test split")):
        size = splits.get(split) or {}
        if size.get("tokens") is not None:
            n_bytes = size.get("bytes")
            facts.append((name, f"{size['tokens']:,} tokens" + (f" ({n_bytes:,} bytes)" if n_bytes else "")))
    if data.get("row_len"):
        facts.append(("Rows", f"{data['row_len']} positions each"))
    facts.append(("Loss counts", _counted(inputs)))
    names = ("unigram entropy of the validation split", "best reachable over the counted positions", "uniform guess")
    losses = references(inputs, summary).values()
    known = [f"{numbers.loss(loss)} {name}" for loss, name in zip(losses, names, strict=True) if loss is not None]
    facts.append(("Reference losses (nats)", ", ".join(known)))
    for key, value in (data.get("detail") or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        facts.append((str(key).replace("_", " ").capitalize(), _short(text) if value is not None else None))
    return facts


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= MAX_DETAIL else text[:MAX_DETAIL] + " …"


def _counted(inputs: Inputs) -> str | None:
    if "counted_positions" not in (inputs.fact("provenance.model") or {}):
        return None
    counted, seq_len = inputs.fact("provenance.model.counted_positions"), inputs.fact("provenance.model.seq_len")
    if counted is None:
        return "every position"
    first, last = min(counted), max(counted)
    if len(counted) == 1:
        which = f"target position {first}"
    elif len(counted) == last - first + 1:
        which = f"target positions {first} to {last}"
    else:
        which = f"target positions {', '.join(map(str, counted))}"
    return f"{which} of 0 to {seq_len - 1}" if seq_len else which


def _training(inputs: Inputs, summary: dict[str, Any]) -> Facts:
    fact = inputs.fact
    steps, asked = summary["steps"], summary["max_steps"]
    updates = numbers.count(steps) if steps is not None else None
    if updates and asked not in (None, steps):
        updates += f" of {asked:,} asked"
    batch, seq_len = fact("provenance.model.batch_size"), fact("provenance.model.seq_len")
    per_step = fact("provenance.model.tokens_per_step")
    full = " (the whole training split)" if fact("config.train.batch_size") == "full" else ""
    sequences = f"{batch:,} sequences{full} × {seq_len:,} tokens" if batch and seq_len else None
    seen = None
    if summary["tokens"]:
        train_tokens = fact("provenance.data.splits.train.tokens")
        passes = f", {numbers.rounded(summary['tokens'] / train_tokens)} passes over the split" if train_tokens else ""
        seen = f"{numbers.compact(summary['tokens'])}{passes}"
    return [
        ("Updates", updates),
        ("Batch", sequences and sequences + (f" = {per_step:,} tokens per update" if per_step else "")),
        ("Work", _work(inputs)),
        ("Training tokens", seen),
        ("Optimizer", _optimizer(inputs)),
        ("Schedule", _schedule(inputs)),
        ("Evaluation", _evaluation(inputs)),
        ("Stops when", code(fact("config.train.stop_when")) if fact("config.train.stop_when") else None),
        ("Seed", None if fact("config.seed") is None else str(fact("config.seed"))),
        ("Engine", _engine(inputs)),
        ("Hardware", hardware(summary)),
    ]


def _work(inputs: Inputs) -> str | None:
    """Return what of the first update's batch was computed; None where that was not recorded."""
    work = inputs.fact("provenance.model.work") or {}
    # What the runs of a sweep do not have in common is absent.
    if not {"positions", "nodes", "last_layer_rows"} <= work.keys():
        return None
    dense, computed = flop_per_token(inputs, "dense"), flop_per_token(inputs, "computed")
    if dense is None or computed is None:
        return None
    # Earlier records have "shares_prefixes" for the kinds of passes.
    passes = work.get("passes", 1)
    trees = work.get("trees", passes if work.get("shares_prefixes") else 0)
    what = rows_in_words(work["nodes"], work["last_layer_rows"], work["positions"], trees=trees, passes=passes)
    keys = [key for key in ("skip_uncounted", "share_prefixes") if inputs.fact(f"config.engine.{key}") is False]
    off = f" ({', '.join(f'engine.{key}=false' for key in keys)})" if keys else ""
    if computed == dense:
        return f"{what}{off}; nothing left out of the plain batch"
    ratio = numbers.rounded(dense / computed)
    plain = "the plain batch (all positions, dense products)"
    return f"{what}{off}; in the first update {ratio} times fewer FLOP than {plain}"


def _optimizer(inputs: Inputs) -> str | None:
    optim = inputs.fact("config.optim")
    if not optim:
        return None
    # What the runs of a sweep do not have in common is absent.
    keys = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip")
    show = {key: "(varies)" if key not in optim else _setting(optim[key]) for key in keys}
    clip = "clipping (varies)" if "grad_clip" not in optim else "no clipping"
    if optim.get("grad_clip"):
        clip = f"clipped to norm {show['grad_clip']}"
    return (
        f"AdamW, peak learning rate {show['learning_rate']}, β1 {show['beta1']}, β2 {show['beta2']}, "
        f"ε {show['eps']}, weight decay {show['weight_decay']} on {optim.get('decay', '(varies)')}, {clip}"
    )


def _setting(value: Any) -> str:
    return numbers.setting(value) if isinstance(value, int | float) else numbers.MISSING


def _schedule(inputs: Inputs) -> str | None:
    schedule = inputs.fact("config.schedule")
    if not schedule or "name" not in schedule:
        return None
    name = str(schedule.get("name"))
    parts = [name]
    if schedule.get("warmup_steps"):
        parts.append(f"{schedule['warmup_steps']:,} warm-up steps")
    if name == "wsd":
        parts.append(f"decay over the last {numbers.percent(schedule.get('decay_fraction'))} of the steps")
    if name != "constant":
        parts.append(f"ends at {numbers.setting(schedule.get('final_lr_fraction'))} of the peak")
    return ", ".join(parts)


def _evaluation(inputs: Inputs) -> str | None:
    train = inputs.fact("config.train")
    if not train or not {"eval_every", "eval_batches"} <= train.keys():
        return None
    every, batches = train.get("eval_every"), train.get("eval_batches")
    when = f"every {every:,} steps" if every else "before and after training"
    if not batches:
        return f"{when}, on the whole of each split"
    tokens = batches * (inputs.fact("provenance.model.tokens_per_step") or 0)
    return f"{when}, on the first {batches:,} batches of each split (at most {tokens:,} tokens, the same each time)"


def _engine(inputs: Inputs) -> str | None:
    engine = inputs.fact("provenance.engine")
    if not engine:
        return None
    bits = {True: "deterministic", False: "not deterministic"}.get(engine.get("deterministic"))
    return ", ".join(str(part) for part in (engine.get("name"), engine.get("precision"), bits) if part)


def status_line(status: str, first: list[str | None], summary: dict[str, Any]) -> Markdown:
    """Return the line below the title: status in bold, `first`, tokens, training time, hardware, tags."""
    parts = [
        *first,
        f"{numbers.compact(summary['tokens'])} tokens" if summary["tokens"] else None,
        f"{numbers.duration(summary['training_s'])} of training" if summary["training_s"] else None,
        hardware(summary),
        *(f"#{tag}" for tag in summary["tags"]),
    ]
    return Markdown(" · ".join([f"**{escape(status)}**", *(escape(part) for part in parts if part)]))


def hardware(summary: dict[str, Any]) -> str | None:
    """Return the device in words: what computed, and on a CPU with how many threads of how many cores."""
    found = summary["hardware"] or {}
    device, name = found.get("device"), found.get("device_name") or found.get("cpu")
    if device is None and name is None:
        return None
    if device not in (None, "cpu"):
        return f"{name} ({device})" if name else str(device)
    threads, cores = found.get("threads"), found.get("cores")
    extent = f", {threads} {'thread' if threads == 1 else 'threads'}" if threads else ""
    extent += f" of {cores} cores" if threads and cores else ""
    return f"{name or 'CPU'}{'' if name and 'cpu' in name.lower() else ' (CPU)' if name else ''}{extent}"
