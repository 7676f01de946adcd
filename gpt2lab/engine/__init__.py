"""What executes a model: the protocol, and the functions that import an engine when it is chosen."""

from gpt2lab.engine.base import DeviceStatus, Engine, EngineSpec, Evaluation, StepResult
from gpt2lab.engine.create import check_spec, create_engine, find_devices, plan_engine
from gpt2lab.engine.plan import EnginePlan, MemoryPlan, TokenBatch, Work, bytes_in_words
from gpt2lab.engine.weights import is_published, read_weights, read_weights_shape
