"""Compiles .cu files with g++ through cuda/host, and keeps the results in the user's cache folder."""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpt2lab.engine.cuda.device.sources import Kernel, find_cuda_folder, read_sources
from gpt2lab.errors import EngineError, InternalError

# Without _FORTIFY_SOURCE, whose longjmp takes a jump to another stack for an attack.
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fno-gnu-unique", "-U_FORTIFY_SOURCE", "-Wall", "-Wno-unknown-pragmas")
# Loops stay loops: a call of memset would not be seen by the checks. DWARF 4: addr2line confuses the files of DWARF 5.
_CHECKED_FLAGS = (
    "-fsanitize=thread,alignment",
    "-fno-tree-loop-distribute-patterns",
    "-g1",
    "-gdwarf-4",
    "-DHOST_CHECKED",
)
# A C function for floats that cuda_on_cpu.h does not widen would round to float unnoticed.
_FLOAT64_FLAGS = ("-DHOST_FLOAT64", "-Werror=float-conversion")
_RUNTIME_SOURCES = ("fibers.cpp", "memory_checks.cpp")
_ERROR = re.compile(r"^(.+?:\d+)(?::\d+)?: (?:fatal )?error: (.+)$", re.MULTILINE)


@functools.cache
def compiler() -> tuple[str, str]:
    """Return (path, version) of g++. Raises EngineError when there is none, or not for this system."""
    if sys.platform != "linux":
        raise EngineError(f"engine.device=host runs on Linux only, this is {sys.platform}: choose engine=torch")
    path = shutil.which("g++")
    if path is None:
        raise EngineError(
            "engine.device=host compiles the kernels with g++, which was not found; install it (Debian and Ubuntu:"
            " apt install g++; Fedora: dnf install gcc-c++) or choose engine=torch"
        )
    version = _run([path, "-dumpfullversion"], "").strip()
    return path, f"{version} {platform.machine()}"  # a home, and its cache, may be shared by machines of two kinds


@functools.cache
def cache_folder() -> Path:
    """Return a folder for compiled files that can be written: in the user's cache, or a temporary one."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "gpt2lab" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        folder = Path(tempfile.mkdtemp(prefix="gpt2lab-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder


def build_runtime() -> Path:
    """Return the shared library of scheduler and memory checks, compiled when need be."""
    host = find_cuda_folder() / "host"
    sources = {name: (host / name).read_text(encoding="utf-8") for name in sorted(f.name for f in host.iterdir())}
    return _build("runtime", sources, [*_FLAGS], [str(host / name) for name in _RUNTIME_SOURCES], "", [])


def build_module(
    folder: Path, file: str, kernels: Sequence[Kernel], defines: Mapping[str, int], *, checked: bool, float64: bool
) -> Path:
    """Return the shared library of folder/`file`, compiled when need be. Raises InternalError naming file and line."""
    host = find_cuda_folder() / "host"
    headers = {
        name: (host / name).read_text(encoding="utf-8") for name in ("cuda_on_cpu.h", "cuda_bf16.h", "runtime.h")
    }
    flags = [*_FLAGS, *(_CHECKED_FLAGS if checked else ()), *(_FLOAT64_FLAGS if float64 else ())]
    flags += ["-Wno-unused-function", "-include", str(host / "cuda_on_cpu.h"), f"-I{host}", f"-I{folder}"]
    flags += [f"-D{name}={value}" for name, value in sorted(defines.items())]
    calls = "".join(f"HOST_KERNEL({kernel.name}, ({kernel.launch_bounds}))\n" for kernel in kernels)
    code = f'#include "{folder / file}"\n{calls}'
    sources = headers | read_sources(folder, file)
    return _build(Path(file).stem, sources, flags, ["-x", "c++", "-"], code, [str(build_runtime())])


def _build(
    name: str, sources: Mapping[str, str], flags: list[str], inputs: list[str], code: str, libraries: list[str]
) -> Path:
    gxx, version = compiler()
    recipe = repr([version, sorted(sources.items()), flags, inputs, code, libraries])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:24]
    target = cache_folder() / f"{name}-{key}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=cache_folder()) as work:
        objects = []
        # Compiled and linked apart, since -fsanitize=thread would link a library that takes the hooks for itself.
        for number, source in enumerate([inputs] if code else [[each] for each in inputs]):
            objects.append(f"{work}/{number}.o")
            _run([gxx, *flags, "-c", *source, "-o", objects[-1]], code)
        built = f"{work}/built.so"
        # The name by which the loader knows that the runtime of a module is loaded already.
        _run([gxx, "-shared", f"-Wl,-soname,{target.name}", *objects, *libraries, "-o", built], "")
        Path(built).replace(target)  # another process may have been faster; its file is the same
    return target


def load(library: Path) -> ctypes.CDLL:
    """Load a compiled file. Raises EngineError when it was damaged, or lies where programs may not be run from."""
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise EngineError(
            f"{library}: cannot be loaded: {str(error).removeprefix(f'{library}: ')}; delete it, or set XDG_CACHE_HOME"
            " to a folder that programs may be run from"
        ) from None


def _run(command: list[str], code: str) -> str:
    result = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        found = _ERROR.search(result.stderr)
        if found is None:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"{' '.join(command[:1])} failed with status {result.returncode}: {last}")
        raise InternalError(f"{found[1]}: does not compile: {found[2]}")
    return result.stdout


def source_line(library: Path, offset: int) -> str | None:
    """Return "file:line" of an instruction, `offset` bytes into a library, if binutils can tell."""
    tool = shutil.which("addr2line")
    if tool is None:
        return None
    command = [tool, "-e", str(library), "-i", hex(offset)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    places = [line.split(" (")[0] for line in lines if "?" not in line and ":" in line]
    return (
        " in ".join(f"{Path(place.rsplit(':', 1)[0]).name}:{place.rsplit(':', 1)[1]}" for place in places[:3]) or None
    )
