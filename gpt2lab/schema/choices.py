"""The named options of the configuration."""

from enum import Enum


class TokenizerName(Enum):
    bytes = "bytes"
    gpt2 = "gpt2"


class Order(Enum):
    shuffled = "shuffled"
    sequential = "sequential"


class Operation(Enum):
    """Operation of the equations a OP b = c (mod prime)."""

    add = "add"
    sub = "sub"
    mul = "mul"
    div = "div"
    sq_sum = "sq_sum"


class FormalTask(Enum):
    parity = "parity"
    copy = "copy"
    reverse = "reverse"
    majority = "majority"


class Decay(Enum):
    matrices = "matrices"
    all = "all"


class ScheduleName(Enum):
    constant = "constant"
    cosine = "cosine"
    wsd = "wsd"


class EngineName(Enum):
    auto = "auto"
    torch = "torch"
    cuda = "cuda"


class DeviceChoice(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    host = "host"


class Precision(Enum):
    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


class TrackerName(Enum):
    wandb = "wandb"
    none = "none"


class TrackerMode(Enum):
    offline = "offline"
    online = "online"


class ArchiveMode(Enum):
    auto = "auto"
    off = "off"


class SparsityName(Enum):
    dense = "dense"
    banded = "banded"


class SweepMode(Enum):
    """Which jobs of a sweep run when it is started again."""

    resume = "resume"
    retry_failed = "retry_failed"
    force = "force"
