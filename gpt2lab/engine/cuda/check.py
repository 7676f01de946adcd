"""Whether this machine has what the CUDA core needs: a device, its libraries, the precision and the memory."""

from gpt2lab.engine.base import DeviceStatus, EngineSpec
from gpt2lab.engine.cuda.device import Device, open_device
from gpt2lab.engine.cuda.gemm import create_gemm
from gpt2lab.engine.cuda.gemm.cublas import WORKSPACE_BYTES
from gpt2lab.engine.cuda.memory import plan_within, workload_of
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.errors import EngineError, InternalError
from gpt2lab.schema import DeviceChoice, Precision


def check_precision(device: Device, precision: Precision) -> None:
    """Raise EngineError when the card is too old for the precision."""
    capability = str(device.details.get("compute_capability", "")) or None
    if capability and precision is not Precision.fp32 and int(capability.partition(".")[0]) < 8:
        raise EngineError(
            f"engine.precision={precision.name} needs compute capability 8.0 or above; {device.device_name} has "
            f"{capability}: use fp32"
        )


def check_spec(spec: EngineSpec) -> None:
    """Raise EngineError when device, precision, shape or memory are not available here; nothing is allocated."""
    device = open_device(spec.engine.device)
    check_precision(device, spec.engine.precision)
    numerics, workload = Numerics.of(device, spec.engine.precision), workload_of(spec)
    workspace = WORKSPACE_BYTES if device.name == "cuda" else 0
    plan_within(spec.model, numerics, workload, workspace_bytes=workspace, free_bytes=device.free_bytes())


def find_devices() -> list[DeviceStatus]:
    """Return whether the core runs on a card and on the processor, with its matrix products, or why not."""
    return [_status("cuda core", DeviceChoice.cuda), _status("cuda on host", DeviceChoice.host)]


def _status(name: str, choice: DeviceChoice) -> DeviceStatus:
    try:
        device = open_device(choice)
        create_gemm(device, Precision.fp32)
    except (EngineError, InternalError) as error:
        return DeviceStatus(name, False, str(error))
    details = ", ".join(f"{key} {value}" for key, value in device.details.items())
    return DeviceStatus(name, True, f"{device.device_name} ({details})")
