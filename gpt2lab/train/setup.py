"""From a RunConfig to the parts of a run: data, model shape, batches, engine and starting parameters."""

from dataclasses import dataclass, replace
from pathlib import Path

from gpt2lab.data import Batches, Progress, Source, read_source
from gpt2lab.engine import Engine, EngineSpec, check_spec, create_engine, read_weights
from gpt2lab.errors import ConfigError
from gpt2lab.model.bands import apply_bands
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig, Params
from gpt2lab.schema import RunConfig, counted_positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a training loop works with."""

    config: RunConfig
    source: Source
    spec: EngineSpec  # what the engine was made from
    batches: Batches
    engine: Engine


def prepare_parts(config: RunConfig, *, weights: Path | None = None, report_progress: Progress | None = None) -> Parts:
    """Read the data and build the engine. Raises ConfigError, DataError or EngineError.

    `weights` is a checkpoint to take in place of the config's starting point: the run's own, when it continues.
    """
    source = read_source(config.data, vocab_size=config.model.vocab_size, report_progress=report_progress)
    spec, batches = specify(config, source)
    check_spec(spec)
    model, params = starting_point(config, spec.model, weights)
    spec = replace(spec, model=model)
    return Parts(config=config, source=source, spec=spec, batches=batches, engine=create_engine(spec, params))


def specify(config: RunConfig, source: Source) -> tuple[EngineSpec, Batches]:
    """Return what the engine of a run is made from, and its batches. Raises ConfigError and DataError."""
    seq_len = choose_seq_len(config.train.seq_len, source, config.model.max_seq_len)
    batches = training_batches(config, source, seq_len)
    spec = engine_spec(config, source, seq_len, batches.batch_size)
    if config.sample.count and config.sample.prompt:
        token = source.tokenizer.encode(config.sample.prompt).max()
        if token >= spec.model.vocab_size:  # the model could not continue it after training
            raise ConfigError(
                f"sample.prompt={config.sample.prompt}: token {token} is outside the model's vocabulary of "
                f"{spec.model.vocab_size}"
            )
    return spec, batches


def engine_spec(config: RunConfig, source: Source, seq_len: int, batch_size: int) -> EngineSpec:
    """Return what the engine of a run is made from, for updates of `batch_size` sequences of T = `seq_len`."""
    return EngineSpec(
        model=model_shape(config, source.vocab_size),
        optim=config.optim,
        engine=config.engine,
        counted=counted_positions(config.task_position, seq_len, source.answer_span),
        batch_size=batch_size,
        seq_len=seq_len,
        micro_batch_size=config.train.micro_batch_size,
    )


def training_batches(config: RunConfig, source: Source, seq_len: int) -> Batches:
    """Return the batches that a run trains on. Raises DataError for a batch larger than the split."""
    return Batches(
        source.splits["train"],
        seq_len=seq_len,
        batch_size=config.train.batch_size,
        order=config.data.order,
        seed=config.seed,
        row_len=source.row_len,
    )


def choose_seq_len(requested: int | None, source: Source, max_seq_len: int) -> int:
    """Return T: the data's row, else `requested` (train.seq_len), else the model's longest. Raises ConfigError."""
    if source.row_len is not None and requested not in (None, source.row_len):
        raise ConfigError(
            f"train.seq_len={requested}: data.source={source.name} has rows of {source.row_len} positions; "
            "leave train.seq_len out"
        )
    seq_len = source.row_len or requested or max_seq_len
    if seq_len > max_seq_len:
        cause = f"data.source={source.name} has rows of {seq_len}" if source.row_len else f"train.seq_len={seq_len}"
        raise ConfigError(
            f"{cause}, above the {max_seq_len} positions that the model has an embedding for: model.max_seq_len of at "
            f"least {seq_len} is needed"
        )
    return seq_len


def model_shape(config: RunConfig, data_vocab_size: int) -> GPTConfig:
    """Return the model's shape; the vocabulary is the data's unless the config names a larger one."""
    vocab_size = config.model.vocab_size or data_vocab_size
    if vocab_size < data_vocab_size:
        raise ConfigError(
            f"model.vocab_size={vocab_size} is below the {data_vocab_size} tokens of data.source="
            f"{config.data.source}: leave it out, or set at least {data_vocab_size}"
        )
    return GPTConfig(
        n_layer=config.model.n_layer,
        n_head=config.model.n_head,
        n_embd=config.model.n_embd,
        max_seq_len=config.model.max_seq_len,
        vocab_size=vocab_size,
        fc1_band=config.fc1_band,
        fc2_band=config.fc2_band,
    )


def starting_point(config: RunConfig, model: GPTConfig, weights: Path | None) -> tuple[GPTConfig, Params]:
    """Return shape and starting parameters: drawn from the seed, or those of `weights` or `model.init_from`."""
    if config.model.init_from is None and weights is None:
        params = init_params(model, seed=config.seed, scale_residual=config.model.scale_residual_init)
        return model, params
    params, found = read_weights(str(weights or config.model.init_from))
    check_weights(config, found, model)
    params["wpe"] = params["wpe"][: model.max_seq_len].copy()
    model = replace(model, vocab_size=found.vocab_size, padded_vocab_size=found.padded_vocab_size)
    return model, apply_bands(params, model)


def check_weights(config: RunConfig, found: GPTConfig, model: GPTConfig) -> None:
    """Raise ConfigError when weights of the shape `found` cannot start a run of the shape `model`."""
    origin = config.model.init_from
    for name in ("n_layer", "n_head", "n_embd"):
        if getattr(found, name) != getattr(model, name):
            raise ConfigError(
                f"model.{name}={getattr(model, name)}, but model.init_from={origin} has {getattr(found, name)}: "
                f"set model.n_layer={found.n_layer} model.n_head={found.n_head} model.n_embd={found.n_embd}"
            )
    if model.max_seq_len > found.max_seq_len:
        raise ConfigError(
            f"model.max_seq_len={model.max_seq_len}: model.init_from={origin} has {found.max_seq_len} positions; "
            "set at most that"
        )
    if found.vocab_size != model.vocab_size:
        raise ConfigError(
            f"model.init_from={origin} has a vocabulary of {found.vocab_size} tokens, this run one of "
            f"{model.vocab_size}: use data of the same tokenizer (data.tokenizer), or set model.vocab_size"
        )
