"""Entry to the engines. What needs their libraries is imported when it is asked for: torch takes a second to import,
and CuPy is not installed everywhere.
"""

from gpt2lab.engine.base import DeviceStatus, Engine, EngineSpec
from gpt2lab.engine.plan import EnginePlan, TokenBatch
from gpt2lab.model.params import Params
from gpt2lab.schema import DeviceChoice, EngineName


def plan_engine(spec: EngineSpec, batch: TokenBatch | None = None) -> EnginePlan:
    """Return what the engine of `spec` would multiply, compute of `batch` and allocate; nothing is built.

    Raises EngineError for a shape that it does not take.
    """
    if spec.engine.name is EngineName.cuda:
        from gpt2lab.engine.cuda.plan import plan as plan_cuda

        return plan_cuda(spec, batch)
    from gpt2lab.engine.torch.plan import plan as plan_torch

    return plan_torch(spec, batch)


def check_spec(spec: EngineSpec) -> None:
    """Raise EngineError for what `create_engine` would refuse, before parameters are drawn or read for it."""
    if spec.engine.name is EngineName.cuda:
        from gpt2lab.engine.cuda.check import check_spec as check_cuda_spec

        check_cuda_spec(spec)
    elif spec.engine.device is not DeviceChoice.auto:
        from gpt2lab.engine.torch.device import choose_device

        choose_device(spec.engine.device)


def create_engine(spec: EngineSpec, params: Params) -> Engine:
    """Build the engine that `spec` names, holding `params`. Raises EngineError when it cannot run here."""
    if spec.engine.name is EngineName.cuda:
        from gpt2lab.engine.cuda.engine import CudaEngine

        return CudaEngine(spec, params)
    from gpt2lab.engine.torch.engine import TorchEngine

    return TorchEngine(spec, params)


def find_devices() -> list[DeviceStatus]:
    """Return the devices that engines look for on this machine, and what they found."""
    from gpt2lab.engine.cuda.check import find_devices as find_cuda_devices
    from gpt2lab.engine.torch.device import find_devices as find_torch_devices

    return [*find_torch_devices(), *find_cuda_devices()]
