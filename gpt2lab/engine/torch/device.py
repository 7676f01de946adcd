"""Choosing the device and precision PyTorch runs with. Nothing falls back in silence: what was chosen is recorded."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from gpt2lab.engine.base import DeviceStatus, processor_name
from gpt2lab.errors import EngineError
from gpt2lab.schema import DeviceChoice, Precision


def choose_device(requested: DeviceChoice) -> torch.device:
    """Return the device: the requested one, or for auto the first of CUDA, MPS and CPU. Raises EngineError."""
    available = [device for device in (DeviceChoice.cuda, DeviceChoice.mps, DeviceChoice.cpu) if is_available(device)]
    if requested is DeviceChoice.auto:
        return torch.device(available[0].name)
    if requested not in available:
        names = ", ".join(device.name for device in available)
        raise EngineError(
            f"engine.device={requested.name}: PyTorch {torch.__version__} finds no such device; found {names}"
        )
    return torch.device(requested.name)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn PyTorch's errors about memory, of a card or of the CPU, into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise MemoryError(text) from error
        raise


def is_available(device: DeviceChoice) -> bool:
    """Return whether PyTorch can use the device on this machine."""
    if device is DeviceChoice.cuda:
        return torch.cuda.is_available()
    return device is DeviceChoice.cpu or torch.backends.mps.is_available()


def find_devices() -> list[DeviceStatus]:
    """Return which device engine.device=auto takes, and whether PyTorch finds the others."""
    chosen = choose_device(DeviceChoice.auto)
    text = f"torch on {chosen.type}: {device_name(chosen)}, {os.cpu_count()} cores"
    statuses = [DeviceStatus("engine", True, text)]
    for device in (DeviceChoice.cuda, DeviceChoice.mps):
        available = is_available(device)
        text = "found" if available else "not found: runs use the CPU"
        statuses.append(DeviceStatus(f"torch on {device.name}", available, text))
    return statuses


def device_name(device: torch.device) -> str:
    """Return the model of the card or processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def device_details(device: torch.device) -> dict[str, object]:
    """Return driver and runtime versions, compute capability and memory of a CUDA device; {} elsewhere."""
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "cuda_runtime": torch.version.cuda,
        "driver": _driver_version(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_mib": properties.total_memory // 2**20,
    }


def _driver_version() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return found.splitlines()[0].strip() if found.strip() else None


def set_precision(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Set how matrix products round, and return the context that forward passes run in. Raises EngineError."""
    if precision is Precision.tf32:
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            raise EngineError(
                f"engine.precision=tf32 needs a CUDA device of compute capability 8.0 or above; this run is on "
                f"{device.type}: use fp32 or bf16"
            )
        torch.set_float32_matmul_precision("high")
        return nullcontext()
    torch.set_float32_matmul_precision("highest")
    if precision is Precision.bf16:
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise EngineError(f"engine.precision=bf16: {device_name(device)} has no bfloat16: use fp32")
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def set_deterministic(device: torch.device, deterministic: bool) -> None:
    """Make the same seed give the same bits on the same device, at some cost in speed on a GPU."""
    if device.type == "cuda":  # the CPU's kernels are deterministic, and the call imports a compiler: half a second
        torch.use_deterministic_algorithms(deterministic)
