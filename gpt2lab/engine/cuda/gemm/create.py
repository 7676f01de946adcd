"""Which library multiplies matrices on a device, imported only when it is chosen."""

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.gemm.base import Gemm
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.schema import Precision


def create_gemm(device: Device, precision: Precision) -> Gemm:
    """Return the products of `device`. Raises EngineError when the card's libraries cannot be loaded."""
    numerics = Numerics.of(device, precision)
    if device.name == "host":
        from gpt2lab.engine.cuda.device.host import HostDevice
        from gpt2lab.engine.cuda.gemm.host import HostGemm

        assert isinstance(device, HostDevice)
        return HostGemm(device, numerics)
    from gpt2lab.engine.cuda.gemm.cublas import open_cublas

    return open_cublas(device, numerics)
