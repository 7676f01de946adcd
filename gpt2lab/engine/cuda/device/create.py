"""Which device engine=cuda runs on, imported only when it is chosen: neither CuPy nor a compiler is everywhere."""

from gpt2lab.engine.cuda.device.base import Device
from gpt2lab.errors import EngineError
from gpt2lab.schema import DeviceChoice


def open_device(choice: DeviceChoice, *, checked: bool = False) -> Device:
    """Return the device for engine=cuda. Raises EngineError that says what was found and what can be done.

    checked: let a host device watch every memory access.
    """
    if choice is DeviceChoice.host:
        from gpt2lab.engine.cuda.device.host import HostDevice

        return HostDevice(checked=checked)
    if choice in (DeviceChoice.auto, DeviceChoice.cuda):
        from gpt2lab.engine.cuda.device.card import CudaDevice

        return CudaDevice()
    raise EngineError(f"engine=cuda runs on engine.device=cuda or host, not on {choice.name}; engine=torch does")
