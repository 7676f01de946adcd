"""Compiles the .cu files for cards that need not be there, with NVRTC, and says what each kernel occupies.

Needs no driver: only the packages cuda-bindings, nvidia-cuda-nvrtc, nvidia-cuda-runtime and nvidia-cuda-cccl.
"""

import contextlib
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt2lab.engine.cuda.device.host_build import cache_folder
from gpt2lab.engine.cuda.device.sources import find_cuda_folder, read_sources
from gpt2lab.errors import EngineError, InternalError

ARCHITECTURES = (80, 90, 120)  # compute capabilities: Ampere (A100), Hopper (H100, H200), Blackwell (RTX 50)

_OPTIONS = ("-std=c++17",)
_OFFLINE_OPTIONS = ("-ftz=true", "--ptxas-options=-v")

_BUILD_LINE = re.compile(r"^// build:(.*)$", re.MULTILINE)
_ERROR = re.compile(r"^(.+?)\((\d+)\): (?:catastrophic )?error:? ?(.*)$", re.MULTILINE)
_RESOURCES = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelResources:
    """What one kernel of one variant occupies on one architecture."""

    file: str
    kernel: str
    variant: str  # the defines it was compiled with
    architecture: int
    registers: int  # per thread
    shared_bytes: int  # per block
    local_bytes: int  # per thread: stack frame and spilled registers, which lie in slow memory


def compile_options(folder: Path, defines: Mapping[str, int]) -> tuple[str, ...]:
    """Return the options of NVRTC for every kernel, here and on a card (where CuPy adds -arch and -ftz=true)."""
    includes = [folder, *header_folders()]
    return (*_OPTIONS, *(f"-I{path}" for path in includes), *(f"-D{k}={v}" for k, v in sorted(defines.items())))


def header_folders() -> list[Path]:
    """Return the folders of CUDA's own headers: cuda_bf16.h, and the CCCL that it includes.

    From NVIDIA's wheels, a conda environment, or a toolkit at CUDA_PATH or /usr/local/cuda.
    """
    from cuda.pathfinder import find_nvidia_header_directory

    folders = []
    for name in ("cudart", "cccl"):
        with contextlib.suppress(RuntimeError):  # an older pathfinder does not know the name
            path = find_nvidia_header_directory(name)
            folders += [Path(path)] if path else []
    toolkit = Path(os.environ.get("CUDA_PATH") or "/usr/local/cuda") / "include"
    folders += [toolkit] if not folders and toolkit.is_dir() else []
    folders += [folder / "cccl" for folder in folders if (folder / "cccl").is_dir()]
    if not any((folder / "cuda_bf16.h").is_file() for folder in folders):
        raise EngineError(
            "cuda_bf16.h was not found; install NVIDIA's headers: pip install nvidia-cuda-runtime nvidia-cuda-cccl (or"
            " nvidia-cuda-runtime-cu12 nvidia-cuda-cccl-cu12 beside cupy-cuda12x), or set CUDA_PATH to a CUDA toolkit"
        )
    return list(dict.fromkeys(folders))


def compile_error(file: str, log: str) -> InternalError:
    """Return the error for a log of NVRTC, naming file and line of its first error."""
    found = _ERROR.search(log)
    if found is None:
        return InternalError(f"{file}: does not compile: {(log.strip().splitlines() or ['no message'])[0]}")
    return InternalError(f"{found[1]}:{found[2]}: does not compile: {found[3]}")


def variants(text: str) -> list[dict[str, int]]:
    """Return the defines of each variant that the build line of a .cu file asks for.

    `// build: VEC=4:8; HEAD_SIZE=64,128` gives ACT_BF16=0 with VEC=4 and ACT_BF16=1 with VEC=8, each with both head
    sizes. `// build: plain` needs no define but ACT_BF16; `// build: no act_t` means that even that does not matter.
    """
    lines = _BUILD_LINE.findall(text)
    if len(lines) != 1:
        raise InternalError(f"{len(lines)} lines begin with `// build:`; expected one, such as `// build: VEC=4:8`")
    parts = [part.strip() for part in lines[0].split(";")]
    formats = (0,) if "no act_t" in parts else (0, 1)
    choices = [part.split("=") for part in parts if part not in ("plain", "no act_t", "")]
    found = []
    for act_bf16 in formats:
        names = [name.strip() for name, _ in choices]
        values = [
            [int(value.split(":")[act_bf16 if ":" in value else 0]) for value in v.split(",")] for _, v in choices
        ]
        found += [{"ACT_BF16": act_bf16, **dict(zip(names, each, strict=True))} for each in itertools.product(*values)]
    return found


def compile_offline(folder: Path, file: str, defines: Mapping[str, int], architecture: int) -> tuple[bytes, str]:
    """Return (cubin, log of the assembler). Raises InternalError naming file and line."""
    from cuda.bindings import nvrtc

    text = read_sources(folder, file)[file]
    options = (f"-arch=sm_{architecture}", *_OFFLINE_OPTIONS, *compile_options(folder, defines))
    # By its full name, so that its headers are looked for beside it before the current directory.
    program = _call(nvrtc.nvrtcCreateProgram(text.encode(), str(folder / file).encode(), 0, [], []))
    try:
        [status] = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = bytearray(_call(nvrtc.nvrtcGetProgramLogSize(program)))
        _call(nvrtc.nvrtcGetProgramLog(program, log))
        messages = log.rstrip(b"\0").decode(errors="replace")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise compile_error(file, messages)
        cubin = bytearray(_call(nvrtc.nvrtcGetCUBINSize(program)))
        _call(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        _call(nvrtc.nvrtcDestroyProgram(program))
    return bytes(cubin), messages


def _call(result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status) != 0:
        raise InternalError(f"NVRTC failed: {status.name}")
    return values[0] if values else None


def sources_hash(file: str, folder: Path | None = None) -> str:
    """Return a hash of folder/`file` and of the headers that it includes."""
    sources = read_sources(folder or find_cuda_folder(), file)
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:16]


def kernel_resources(folder: Path | None = None, pattern: str = "*.cu") -> Iterator[KernelResources]:
    """Compile .cu files in each variant of their build line for each architecture; yield what each kernel takes."""
    folder = folder or find_cuda_folder()
    jobs = []
    for path in sorted(folder.glob(pattern)):
        try:
            asked = variants(path.read_text(encoding="utf-8"))
        except InternalError as error:
            raise InternalError(f"{path.name}: {error}") from None
        jobs += [(path.name, *each) for each in itertools.product(asked, ARCHITECTURES)]
    for file, defines, architecture in jobs:
        log = _cached_log(folder, file, defines, architecture)
        for kernel, stack, stores, loads, registers, shared in _RESOURCES.findall(log):
            yield KernelResources(
                file=file,
                kernel=kernel,
                variant=" ".join(f"{name}={value}" for name, value in defines.items()),
                architecture=architecture,
                registers=int(registers),
                shared_bytes=int(shared or 0),
                local_bytes=int(stack) + int(stores) + int(loads),
            )


def _cached_log(folder: Path, file: str, defines: Mapping[str, int], architecture: int) -> str:
    """Return the log of compile_offline, which takes a third of a second, and is kept by content."""
    packages = [f"{name} {version(name)}" for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cuda-cccl")]
    options = [_OPTIONS, _OFFLINE_OPTIONS, sorted(defines.items()), architecture]
    recipe = repr([packages, sorted(read_sources(folder, file).items()), options])
    path = cache_folder() / f"{Path(file).stem}-{hashlib.sha256(recipe.encode()).hexdigest()[:24]}.log"
    if path.exists():
        return path.read_text(encoding="utf-8")
    log = compile_offline(folder, file, defines, architecture)[1]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as written:
        written.write(log)
    Path(written.name).replace(path)
    return log
