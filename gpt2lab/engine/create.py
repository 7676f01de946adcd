"""The engine that a spec names, imported only when it is chosen: torch takes a second, CuPy is not everywhere."""

from gpt2lab.engine.base import Engine, EngineSpec
from gpt2lab.model.params import Params
from gpt2lab.schema import Device, EngineName


def check_spec(spec: EngineSpec) -> None:
    """Raise EngineError for what `create_engine` would refuse, before parameters are drawn or read for it."""
    if spec.engine.name is EngineName.cuda:
        from gpt2lab.engine.cuda.engine import check_spec as check_cuda_spec

        check_cuda_spec(spec)
    elif spec.engine.device is not Device.auto:
        from gpt2lab.engine.torch.device import choose_device

        choose_device(spec.engine.device)


def create_engine(spec: EngineSpec, params: Params) -> Engine:
    """Build the engine that `spec.engine` names, holding `params`. Raises EngineError when it is not to be had."""
    if spec.engine.name in (EngineName.auto, EngineName.torch):
        from gpt2lab.engine.torch.engine import TorchEngine

        return TorchEngine(spec, params)
    from gpt2lab.engine.cuda.engine import CudaEngine

    return CudaEngine(spec, params)
