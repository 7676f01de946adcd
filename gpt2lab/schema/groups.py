"""One dataclass per config group, with its defaults and the rules within the group.

The comment behind a field is its documentation: the README's table of keys is made from it.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from gpt2lab.errors import ConfigError

# The options that have names.
TokenizerName = StrEnum("TokenizerName", ["bytes", "gpt2"])
Order = StrEnum("Order", ["shuffled", "sequential"])
Operation = StrEnum("Operation", ["add", "sub", "mul", "div", "sq_sum"])  # a OP b = c (mod prime)
FormalTask = StrEnum("FormalTask", ["parity", "copy", "reverse", "majority"])
Decay = StrEnum("Decay", ["matrices", "all"])
ScheduleName = StrEnum("ScheduleName", ["constant", "cosine", "wsd"])
EngineName = StrEnum("EngineName", ["auto", "torch", "cuda"])
DeviceChoice = StrEnum("DeviceChoice", ["auto", "cpu", "cuda", "mps", "host"])
Precision = StrEnum("Precision", ["fp32", "tf32", "bf16"])
TrackerName = StrEnum("TrackerName", ["wandb", "none"])
TrackerMode = StrEnum("TrackerMode", ["offline", "online"])
ArchiveMode = StrEnum("ArchiveMode", ["auto", "off"])
SparsityName = StrEnum("SparsityName", ["dense", "banded"])
SweepMode = StrEnum("SweepMode", ["resume", "retry_failed", "force"])  # jobs of a sweep that is started again

MAX_DIMENSION = 1 << 20  # larger than any model of this kind; a typing mistake must not become an allocation


def _at_least(group: str, config: object, minimum: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not minimum <= value < math.inf:
            raise ConfigError(f"{group}.{name}={value}: expected at least {minimum}, and finite")


def _not_blank(group: str, config: object, *names: str) -> None:
    """Refuse an empty value, for example of an unset shell variable: as a path it is the current directory."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value.strip():
            raise ConfigError(f"{group}{name}= is empty: give it a value, or leave it out")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Shape and starting point of the model."""

    n_layer: int = 4  # transformer blocks, L
    n_head: int = 4  # attention heads, NH
    n_embd: int = 128  # channels, C
    max_seq_len: int = 256  # longest position the model has an embedding for
    vocab_size: int | None = None  # V; null: the data source's own
    init_from: str | None = None  # an llm.c checkpoint, hf:gpt2 (-medium, -large, -xl), or an experiment number
    scale_residual_init: bool = True  # scale residual projections by 1/sqrt(2L) at init

    def __post_init__(self) -> None:
        _not_blank("model.", self, "init_from")
        _at_least("model", self, 1, "n_layer", "n_head", "n_embd", "max_seq_len", "vocab_size")
        for name in ("n_layer", "n_embd", "max_seq_len", "vocab_size"):
            if (getattr(self, name) or 0) > MAX_DIMENSION:
                raise ConfigError(f"model.{name}={getattr(self, name)}: expected at most {MAX_DIMENSION}")
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"model.n_embd={self.n_embd} is not divisible by model.n_head={self.n_head}: each head takes "
                "n_embd / n_head channels; change one of them"
            )


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where tokens come from and in which order they are read. The source itself says which keys it uses."""

    source: str = "pydocs"  # name of a data source, as in data=NAME
    path: str | None = None  # local file or folder; text needs it, shakespeare and tinystories accept it
    train: str | None = None  # shards: training token files, a path or a glob pattern
    val: str | None = None  # shards: validation token files
    test: str | None = None  # shards: test token files, optional
    tokenizer: TokenizerName = TokenizerName.bytes  # bytes (256 tokens) or gpt2 (50,257)
    order: Order = Order.shuffled  # shuffled windows, or sequential as llm.c reads
    operation: Operation = Operation.add  # modular: add, sub, mul, div, sq_sum
    prime: int = 97  # modular: the modulus
    train_fraction: float = 0.5  # modular, formal: share of all examples that is trained on
    split_seed: int = 0  # modular, formal: which examples those are
    task: FormalTask = FormalTask.parity  # formal: parity, copy, reverse, majority
    input_len: int = 8  # formal: input bits

    def __post_init__(self) -> None:
        _not_blank("data.", self, "source", "path", "train", "val", "test")
        _at_least("data", self, 2, "prime")
        _at_least("data", self, 1, "input_len")
        if not 0 < self.train_fraction < 1:
            raise ConfigError(f"data.train_fraction={self.train_fraction}: expected above 0 and below 1")


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter, 2019)."""

    learning_rate: float = 1e-3  # peak learning rate
    beta1: float = 0.9  # decay of the first moment
    beta2: float = 0.99  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.1  # decoupled decay, multiplied by the learning rate
    decay: Decay = Decay.matrices  # which tensors decay: matrices (and embeddings), or all
    grad_clip: float = 1.0  # largest global L2 norm of the gradient; 0 = off

    def __post_init__(self) -> None:
        _at_least("optim", self, 0, "learning_rate", "weight_decay", "grad_clip")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)}: expected at least 0 and below 1")
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"optim.eps={self.eps}: expected above 0, and finite")


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate over steps."""

    name: ScheduleName = ScheduleName.constant  # constant, cosine, wsd (warmup, stable, decay)
    warmup_steps: int = 0  # linear rise from 0
    final_lr_fraction: float = 0.1  # cosine, wsd: last learning rate as a share of the peak
    decay_fraction: float = 0.2  # wsd: share of all steps spent decaying

    def __post_init__(self) -> None:
        _at_least("schedule", self, 0, "warmup_steps")
        for name in ("final_lr_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"schedule.{name}={getattr(self, name)}: expected between 0 and 1")


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Length of the run, batch, and what is measured when."""

    max_steps: int = 600  # optimizer updates
    batch_size: int | str = 16  # sequences per update, or full: every training example
    micro_batch_size: int | None = None  # sequences per pass; null: the whole batch at once
    seq_len: int | None = None  # positions per sequence, T; null: the data's row, else model.max_seq_len
    eval_every: int = 100  # steps between evaluations; 0 = only before and after training
    eval_batches: int | None = 20  # batches of batch_size per evaluation and split; null = the whole split
    eval_train: bool = True  # evaluate on the training split too (train_eval_loss, train_accuracy)
    log_every: int = 10  # steps between rows of metrics.csv
    checkpoint_every: int = 0  # steps between checkpoints; 0 = only at the end
    stop_when: str | None = None  # stop when a metric reaches a value, for example val_accuracy>=0.99
    time_limit: float | None = None  # seconds of training after which a session stops and saves

    def __post_init__(self) -> None:
        _at_least("train", self, 0, "max_steps", "eval_every", "checkpoint_every")
        _at_least("train", self, 1, "log_every", "micro_batch_size", "seq_len", "eval_batches")
        if isinstance(self.batch_size, str) and self.batch_size != "full":
            raise ConfigError(f"train.batch_size={self.batch_size}: expected a number of sequences, or full")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ConfigError(f"train.batch_size={self.batch_size}: expected at least 1, or full")
        if self.time_limit is not None and not 0 < self.time_limit < math.inf:
            raise ConfigError(f"train.time_limit={self.time_limit}: expected seconds above 0, or null")
        if self.stop_when is not None:
            parse_stop_when(self.stop_when)


@dataclass(kw_only=True, slots=True)
class SampleConfig:
    """Text written by the model when training ends."""

    count: int = 3  # samples; 0 = none
    max_tokens: int = 200  # tokens per sample
    temperature: float = 0.8  # 0 = always the likeliest token
    top_k: int | None = 200  # draw among the k likeliest tokens; null = all
    prompt: str = ""  # text the samples begin with; empty: the data source's own

    def __post_init__(self) -> None:
        _at_least("sample", self, 0, "count", "temperature")
        _at_least("sample", self, 1, "max_tokens", "top_k")


@dataclass(kw_only=True, slots=True)
class EngineConfig:
    """What executes the model."""

    name: EngineName = EngineName.auto  # torch, cuda (our own kernels), or auto: torch
    device: DeviceChoice = DeviceChoice.auto  # cuda, mps, cpu, or auto: the first available; engine=cuda: cuda or host
    precision: Precision = Precision.fp32  # fp32, tf32 (CUDA), bf16 (products in bfloat16, weights in float32)
    deterministic: bool = True  # same seed, same bits on the same device; engine=cuda always is
    graph: bool | None = None  # engine=cuda: replay each update as one CUDA graph; null: on a card
    checked: bool = False  # engine.device=host: watch every memory access of the kernels; about four times slower
    banded_products: bool = True  # leave out products outside a band where that is faster; false: multiply, then mask
    skip_uncounted: bool = True  # leave out work that no counted position needs; false: compute every position
    share_prefixes: bool = True  # compute shared beginnings of rows once; false: every row separately

    def __post_init__(self) -> None:
        core = self.name is EngineName.cuda
        if core and self.device in (DeviceChoice.cpu, DeviceChoice.mps):
            raise ConfigError(
                f"engine.device={self.device.name}: engine=cuda runs on cuda, or on host (the kernels, run by a "
                "processor); engine=torch has cpu and mps"
            )
        if not core and self.device is DeviceChoice.host:
            raise ConfigError(
                "engine.device=host runs the CUDA kernels on a processor: add engine=cuda, or leave it out"
            )
        if self.checked and self.device is not DeviceChoice.host:
            raise ConfigError(
                f"engine.checked=true: engine.device={self.device.name} cannot watch the kernels' memory accesses; "
                "engine=cuda engine.device=host does"
            )
        if self.graph and (not core or self.device is DeviceChoice.host):
            where = "engine.device=host" if core else f"engine={self.name.name}"
            raise ConfigError(f"engine.graph=true: {where} has no CUDA graphs; only engine=cuda on a card does")


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """Mirror of the metrics in Weights & Biases; our own files are the record."""

    name: TrackerName = TrackerName.wandb  # wandb or none
    project: str = "gpt2lab"  # W&B project
    group: str | None = None  # W&B group
    mode: TrackerMode = TrackerMode.offline  # offline (kept in the run directory) or online


@dataclass(kw_only=True, slots=True)
class ArchiveConfig:
    """What happens to a finished run."""

    mode: ArchiveMode = ArchiveMode.auto  # auto: becomes an experiment when it finishes; off
    root: str = "experiments"  # folder of the archive

    def __post_init__(self) -> None:
        _not_blank("archive.", self, "root")


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """How the jobs of a grid are run and compared. A single run ignores it."""

    mode: SweepMode = SweepMode.resume  # jobs to run: resume (missing ones), retry_failed (and failed), force (all)
    fail_fast: bool = False  # start no further job once one has failed
    metric: str = "val_loss"  # column of metrics.csv that the report compares
    baseline: str | None = None  # arm to compare the others with: KEY=VALUE words separated by spaces; null: the first


def parse_stop_when(expression: str) -> tuple[str, str, float]:
    """Split `val_accuracy>=0.99` into (metric, comparison, threshold). Raises ConfigError."""
    for sign in (">=", "<=", ">", "<"):
        metric, found, threshold = expression.partition(sign)
        if found:
            try:
                number = float(threshold)
            except ValueError:
                break
            if math.isfinite(number):
                return metric.strip(), sign, number
            break
    raise ConfigError(
        f"train.stop_when={expression}: expected METRIC>=NUMBER (or <=, >, <), for example val_accuracy>=0.99"
    )
