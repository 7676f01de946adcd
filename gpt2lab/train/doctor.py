"""What this machine offers to a run."""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass

from gpt2lab.data import data_dir
from gpt2lab.data.tokenizers import GPT2_FILES, find_gpt2_file
from gpt2lab.errors import EngineError, InternalError
from gpt2lab.record.tracker import has_key
from gpt2lab.schema import Device, Precision


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination; `ok` is False for what is missing but not needed for the default run."""

    name: str
    ok: bool
    text: str


def examine() -> list[Finding]:
    """Look at Python, devices, tokenizers, W&B and disk; nothing is downloaded."""
    from gpt2lab.engine.torch.device import choose_device, device_name, is_available

    findings = [Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    chosen = choose_device(Device.auto)
    findings.append(Finding("engine", True, f"torch on {chosen.type}: {device_name(chosen)}, {os.cpu_count()} cores"))
    for device in (Device.cuda, Device.mps):
        there = is_available(device)
        findings.append(Finding(f"torch on {device.name}", there, "found" if there else "not found: runs use the CPU"))
    findings += [_cuda_core(Device.cuda), _cuda_core(Device.host), _gpt2_tokenizer()]
    has_hf = importlib.util.find_spec("transformers") is not None
    findings.append(Finding("transformers", has_hf, "found" if has_hf else "not found: pip install 'gpt2lab[hf]'"))
    key = has_key()
    findings.append(Finding("W&B key", key, "found" if key else "none: runs are tracked offline (wandb login)"))
    git = shutil.which("git")
    findings.append(Finding("git", bool(git), git or "not found: provenance will have no commit"))
    free = shutil.disk_usage(".").free / 2**30
    findings.append(Finding("disk", free > 5, f"{free:.1f} GiB free here; data goes to {data_dir()}"))
    return findings


def _cuda_core(choice: Device) -> Finding:
    """Try the CUDA core's device and its library of matrix products."""
    from gpt2lab.engine.cuda.device import open_device
    from gpt2lab.engine.cuda.gemm import create_gemm

    name = "cuda core" if choice is Device.cuda else f"cuda on {choice.name}"
    try:
        device = open_device(choice)
        create_gemm(device, Precision.fp32)
    except (EngineError, InternalError) as error:
        return Finding(name, False, str(error))
    details = ", ".join(f"{key} {value}" for key, value in device.details.items())
    return Finding(name, True, f"{device.device_name} ({details})")


def _gpt2_tokenizer() -> Finding:
    missing = [name for name in GPT2_FILES if find_gpt2_file(name) is None]
    text = f"{' and '.join(missing)} not found: downloaded at first use, or pip install 'gpt2lab[offline]'"
    return Finding("gpt2 tokenizer", not missing, text if missing else "found")
