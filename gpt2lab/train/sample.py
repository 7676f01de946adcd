"""Writing text with a model, by any engine."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt2lab.data import Source, describe_source, tokenizer_of_size
from gpt2lab.engine import Engine, EngineSpec, create_engine, read_weights
from gpt2lab.errors import ConfigError
from gpt2lab.model.params import GPTConfig
from gpt2lab.record.disk import disk_errors
from gpt2lab.schema import DataConfig, EngineConfig, OptimConfig, RunConfig, SampleConfig, TokenizerName


def generate(
    engine: Engine,
    prompts: np.ndarray,
    *,
    max_tokens: int,
    max_seq_len: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yield the next token of each of N samples, (N,) int32, `max_tokens` times.

    prompts: (N, n) token ids, n at least 1. Temperature 0 takes the likeliest token; `top_k` draws among the k
    likeliest. A context longer than max_seq_len keeps its last positions.
    """
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature {temperature}: expected at least 0, and finite")
    if not prompts.shape[1]:
        raise ConfigError("the prompt is empty: a sample needs at least one token to begin with")
    rng = np.random.default_rng([seed, 0x5A])
    tokens = prompts.astype(np.int32)
    for _ in range(max_tokens):
        logits = engine.logits(np.ascontiguousarray(tokens[:, -max_seq_len:]), last_only=True)[:, 0]
        chosen = draw(logits, temperature=temperature, top_k=top_k, rng=rng)
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        yield chosen


def draw(logits: np.ndarray, *, temperature: float, top_k: int | None, rng: np.random.Generator) -> np.ndarray:
    """Draw one token per row of `logits` (N, V); returns (N,) int32."""
    if temperature == 0:
        return logits.argmax(axis=1).astype(np.int32)
    scaled = logits.astype(np.float64) / temperature
    if top_k is not None and top_k < scaled.shape[1]:
        smallest_kept = np.partition(scaled, -top_k, axis=1)[:, -top_k, None]
        scaled = np.where(scaled < smallest_kept, -np.inf, scaled)
    gumbel = rng.gumbel(size=scaled.shape)  # the argmax of logits plus Gumbel noise is a draw from their softmax
    return (scaled + gumbel).argmax(axis=1).astype(np.int32)


def continue_text(
    engine: Engine, source: Source, prompt: str | None, *, options: SampleConfig, shape: GPTConfig, seed: int
) -> list[str]:
    """Return texts that begin with `prompt` (None: the source's own, whatever `options` say) and end where a row does.

    shape: of the engine's model. Raises ConfigError for a prompt outside its vocabulary.
    """
    begin = source.tokenizer.encode(source.prompt if prompt is None else prompt).astype(np.int32)
    if len(begin) and begin.max() >= shape.vocab_size:
        raise ConfigError(
            f"the prompt's token {begin.max()} is outside the model's vocabulary of {shape.vocab_size}: use its "
            "tokenizer"
        )
    room = options.max_tokens
    if source.row_len is not None:
        room = min(room, max(source.row_len - len(begin), 0))
    prompts = np.tile(begin, (options.count, 1))
    steps = generate(
        engine,
        prompts,
        max_tokens=room,
        max_seq_len=shape.max_seq_len,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=seed,
    )
    rows = np.concatenate([prompts, *(step[:, None] for step in steps)], axis=1)
    return [source.tokenizer.decode(row) for row in rows]


def answer_examples(engine: Engine, source: Source, *, count: int, max_seq_len: int) -> list[str]:
    """Return validation rows of a source with an answer span, each answered by the model and compared."""
    assert source.row_len is not None and source.answer_span is not None
    first, last = source.answer_span
    rows = source.splits["val"].shards[0].reshape(-1, source.row_len)[:count]
    prompts = rows[:, : first + 1]  # target[first] is predicted from inputs 0 ... first
    steps = generate(engine, prompts, max_tokens=last - first + 1, max_seq_len=max_seq_len, temperature=0.0)
    answers = np.stack(list(steps), axis=1)
    expected = rows[:, first + 1 : last + 2]
    decode = source.tokenizer.decode
    return [
        f"{decode(prompt)} -> {decode(answer)} ({'right' if (answer == right).all() else f'expected {decode(right)}'})"
        for prompt, answer, right in zip(prompts, answers, expected, strict=True)
    ]


def open_model(checkpoint: str, engine: EngineConfig) -> tuple[Engine, GPTConfig]:
    """Return an engine that holds the model of an llm.c checkpoint file, or of `hf:NAME`, and the model's shape."""
    params, shape = read_weights(checkpoint)
    return create_engine(EngineSpec(model=shape, optim=OptimConfig(), engine=engine), params), shape


def model_source(config: RunConfig | None, vocab_size: int, tokenizer: TokenizerName | None) -> Source:
    """Return the description of the data whose tokens a model reads and writes.

    It follows from the config of its run or, without one, from `tokenizer` or the vocabulary size: plain text then.
    Raises ConfigError when no tokenizer has that size.
    """
    if config is not None and tokenizer is None:
        return describe_source(config.data, vocab_size=vocab_size)
    name = tokenizer or tokenizer_of_size(vocab_size)
    if name is None:
        raise ConfigError(f"a vocabulary of {vocab_size} tokens belongs to no tokenizer known here: name --tokenizer")
    return describe_source(DataConfig(tokenizer=name))


def write_samples(engine: Engine, source: Source, config: RunConfig, model: GPTConfig, folder: Path) -> None:
    """Write `sample.count` texts of the model as folder/sample-1.txt, sample-2.txt, ...

    A model that learned answers shows them for validation examples, unless `sample.prompt` says how to begin.
    Raises ArchiveError when they cannot be written.
    """
    options = config.sample
    if not options.count:
        return
    if source.answer_span and not options.prompt:
        texts = answer_examples(engine, source, count=options.count, max_seq_len=model.max_seq_len)
    else:
        prompt = options.prompt or None
        texts = continue_text(engine, source, prompt, options=options, shape=model, seed=config.seed)
    with disk_errors("write samples", folder):
        folder.mkdir(exist_ok=True)
        for number, text in enumerate(texts, 1):
            (folder / f"sample-{number}.txt").write_text(text + "\n", encoding="utf-8")
