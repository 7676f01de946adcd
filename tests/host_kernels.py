"""Small kernels for the host device, compiled in a folder of the test."""

import shutil
from pathlib import Path

import numpy as np

from gpt2lab.engine.cuda.device import Array, Module
from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.device.sources import find_cuda_folder

HEAD = '#include "common.cuh"\n'
KERNEL = 'extern "C" __global__ void __launch_bounds__(256) '
MODES = {"plain": {}, "reverse": {"reverse": True}, "checked": {"checked": True}, "float64": {"float64": True}}


def device(folder: Path, **mode: bool) -> HostDevice:
    """A host device that finds its kernels in `folder`, and common.cuh there too."""
    common = (find_cuda_folder() / "common.cuh").read_text()
    (folder / "common.cuh").write_text(common)
    return HostDevice(folder=folder, **mode)


def device_with_change(folder: Path, file: str, right: str, wrong: str) -> HostDevice:
    """A checked device for a copy of all kernels in `folder`/cuda, of which `file` has `wrong` where `right` is."""
    copy = shutil.copytree(find_cuda_folder(), folder / "cuda")
    text = (copy / file).read_text()
    assert right in text
    (copy / file).write_text(text.replace(right, wrong))
    return HostDevice(checked=True, folder=copy)


def compiled(host: HostDevice, body: str, act_bf16: int = 0) -> Module:
    """Write try.cu, which begins with a line that includes common.cuh, and compile it."""
    (host.folder / "try.cu").write_text(HEAD + body)
    return host.compile("try.cu", {"ACT_BF16": act_bf16})


def array(host: HostDevice, values: np.ndarray) -> Array:
    """Upload `values`."""
    target = host.empty(values.nbytes).view(values.dtype).reshape(values.shape)
    host.upload(target, values)
    return target


def undefined(host: HostDevice, length: int, dtype: type = np.float32) -> Array:
    """Allocate, and write nothing."""
    return host.empty(length * np.dtype(dtype).itemsize).view(dtype)


def ones(host: HostDevice, length: int = 64) -> Array:
    return array(host, np.ones(length, dtype=host.float_dtype))
