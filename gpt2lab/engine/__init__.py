"""What executes a model: the protocol, and the factory that imports an engine when it is chosen."""

from gpt2lab.engine.base import Engine, EngineSpec, Evaluation, StepResult
from gpt2lab.engine.create import check_spec, create_engine
from gpt2lab.engine.weights import is_published, read_weights, read_weights_shape

__all__ = [
    "Engine",
    "EngineSpec",
    "Evaluation",
    "StepResult",
    "check_spec",
    "create_engine",
    "is_published",
    "read_weights",
    "read_weights_shape",
]
