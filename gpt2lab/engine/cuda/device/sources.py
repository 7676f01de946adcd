"""The .cu files as Python sees them: where they are, what they include, and what their kernels want as arguments."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2lab.engine.cuda.device.base import Array, LaunchSize
from gpt2lab.errors import EngineError, InternalError

_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:void\s+)?'
    r"(?:__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)\s*)?(?:void\s+)?(\w+)\s*\(([^)]*)\)"
)
_PARAMETER = re.compile(r"(const\s+)?(act_t|float|int|long\s+long)\s*(\*?)\s*(?:__restrict__\s+)?(\w+)")
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
_NAME = re.compile(r"\b[A-Za-z_]\w*")
_ARITHMETIC = re.compile(r"[\d\s()<>=+*/-]+")
_FIRST = re.compile(r",(?![^()]*\))")  # a comma outside of parentheses
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)

# CUDA C++ Programming Guide, table of technical specifications: the same on every card since compute capability 3.0.
MAX_THREADS = 1024
_LARGEST_BLOCK = (1024, 1024, 64)
_LARGEST_GRID = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel: `const float *x` has c_type "float", is a pointer and const."""

    name: str
    c_type: str  # act_t, float, int or long long
    is_pointer: bool
    is_const: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """The declaration of one kernel."""

    name: str
    parameters: tuple[Parameter, ...]
    launch_bounds: str  # the C++ expression of the most threads that a block may have


def find_cuda_folder() -> Path:
    """Return the folder of the .cu files: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[3]
    # Beside an installed package may lie a `cuda` of other people.
    for folder in (package / "cuda", package.parent / "cuda"):
        if (folder / "common.cuh").is_file():
            return folder
    raise EngineError(
        f"{package}: the folder cuda with the kernels is neither in it nor beside it; install gpt2lab again"
    )


def read_sources(folder: Path, file: str) -> dict[str, str]:
    """Return {name: text} of folder/`file` and of every header in quotes that it includes, itself first."""
    texts: dict[str, str] = {}
    waiting = [file]
    while waiting:
        name = waiting.pop(0)
        if name in texts:
            continue
        try:
            texts[name] = (folder / name).read_text(encoding="utf-8")
        except OSError as error:
            raise EngineError(f"{folder / name}: cannot be read: {error.strerror}") from None
        waiting += _INCLUDE.findall(texts[name])
    return texts


@functools.cache
def constant(file: str, name: str, **defines: int) -> int:
    """Return the value of `#define name` in cuda/`file` or a header it includes: what a launch must know of a kernel.

    The value is an integer expression of other constants and of `defines`, which the file is compiled with; a choice
    `? :` stands outermost. Raises InternalError when there is no such constant, or several.
    """
    if name in defines:
        return defines[name]
    definition = re.compile(rf"^#define {name} +(.+?)(?: *//.*)?$", re.MULTILINE)
    found = [each for text in read_sources(find_cuda_folder(), file).values() for each in definition.findall(text)]
    if len(found) != 1:
        raise InternalError(f"cuda/{file}: {len(found)} definitions of {name}, expected one")
    return _evaluate(_NAME.sub(lambda used: str(constant(file, used[0], **defines)), found[0]))


def _evaluate(expression: str) -> int:
    if "?" in expression:
        condition, rest = expression.removeprefix("(").removesuffix(")").split("?", 1)
        chosen, other = rest.split(":", 1)
        return _evaluate(chosen if _evaluate(condition) else other)
    assert _ARITHMETIC.fullmatch(expression), f"`{expression}` is not an integer expression"
    return int(eval(expression.replace("/", "//")))


@functools.cache
def parse_kernels(text: str) -> dict[str, Kernel]:
    """Return {name: kernel} of the declarations in a .cu file. Raises InternalError at one it does not understand."""
    code = _COMMENT.sub("", text)
    kernels = {}
    for bounds, name, parameters in _KERNEL.findall(code):
        kernels[name] = Kernel(
            name, _parse_parameters(name, parameters), _FIRST.split(bounds)[0].strip() or str(MAX_THREADS)
        )
    if code.count("__global__") != len(kernels):
        raise InternalError(
            f"{code.count('__global__')} kernels, of which only {', '.join(kernels) or 'none'} could be read; declare"
            ' each as `extern "C" __global__ void __launch_bounds__(N) name(...)`'
        )
    return kernels


def _parse_parameters(kernel: str, text: str) -> tuple[Parameter, ...]:
    parameters = []
    for part in text.split(",") if text.strip() else []:
        match = _PARAMETER.fullmatch(" ".join(part.split()))
        if match is None:
            raise InternalError(
                f"{kernel}: parameter `{' '.join(part.split())}`: expected act_t, float, int or long long, or a pointer"
            )
        const, c_type, star, name = match.groups()
        parameters.append(Parameter(name, " ".join(c_type.split()), bool(star), bool(const)))
    return tuple(parameters)


class Signature:
    """Checks and casts the arguments of one kernel, compiled for one set of formats."""

    def __init__(self, kernel: Kernel, *, float_dtype: np.dtype, defines: Mapping[str, int]) -> None:
        act_dtype = np.dtype(np.uint16) if defines.get("ACT_BF16") else float_dtype
        dtypes = {"act_t": act_dtype, "float": float_dtype, "int": np.dtype(np.int32), "long long": np.dtype(np.int64)}
        self.kernel, self.dtypes = kernel, [dtypes[parameter.c_type] for parameter in kernel.parameters]

    def bind(self, arguments: Mapping[str, Array | int | float | None]) -> list[Array | np.generic | None]:
        """Return the arguments in the order of the declaration, scalars as numpy scalars of the declared type.

        Raises TypeError that names kernel and argument when one is missing, unknown or of a wrong type.
        """
        parameters = self.kernel.parameters
        if len(arguments) != len(parameters) or any(p.name not in arguments for p in parameters):
            self._refuse_names(arguments)
        return [
            self._array(p, dtype, arguments[p.name]) if p.is_pointer else self._scalar(p, dtype, arguments[p.name])
            for p, dtype in zip(parameters, self.dtypes, strict=True)
        ]

    def _refuse_names(self, arguments: Mapping[str, object]) -> None:
        names = [p.name for p in self.kernel.parameters]
        missing = [name for name in names if name not in arguments]
        unknown = [name for name in arguments if name not in names]
        problem = f"missing {', '.join(missing)}" if missing else f"unknown {', '.join(unknown)}"
        raise TypeError(f"{self.kernel.name}: {problem}; it takes {', '.join(names)}")

    def _array(self, parameter: Parameter, dtype: np.dtype, value: Array) -> Array | None:
        if value is None:
            return None
        what = f"{self.kernel.name}: `{parameter.name}`"
        if not hasattr(value, "dtype") or not hasattr(value, "flags"):
            raise TypeError(f"{what}: expected an array of {dtype}, got {type(value).__name__}")
        if value.dtype != dtype:
            raise TypeError(f"{what}: expected an array of {dtype} ({parameter.c_type} *), got {value.dtype}")
        if not value.flags.c_contiguous:
            raise TypeError(f"{what}: the array must be contiguous; this one has strides {value.strides}")
        return value

    def _scalar(self, parameter: Parameter, dtype: np.dtype, value: Array) -> np.generic:
        what = f"{self.kernel.name}: `{parameter.name}`"
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if parameter.c_type == "float":
            if not (whole or isinstance(value, float | np.floating)):
                raise TypeError(f"{what}: expected a number (float), got {type(value).__name__}")
            if abs(value) > float(np.finfo(dtype).max) and not np.isinf(value):
                raise TypeError(f"{what}: {value} is too large for {dtype}")
        else:
            if not whole:
                raise TypeError(f"{what}: expected a whole number ({parameter.c_type}), got {type(value).__name__}")
            limits = np.iinfo(dtype)
            if not limits.min <= value <= limits.max:
                raise TypeError(f"{what}: {value} does not fit into {parameter.c_type}")
        return dtype.type(value)


@functools.lru_cache(maxsize=4096)
def launch_shape(
    kernel: str, grid: LaunchSize, block: LaunchSize, max_threads: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return grid and block with three sides each. Raises InternalError for one that no card or this kernel takes."""
    sides = {}
    for what, given, largest in (("grid", grid, _LARGEST_GRID), ("block", block, _LARGEST_BLOCK)):
        shape = (given,) if isinstance(given, int | np.integer) else tuple(given)
        shape = tuple(int(side) for side in shape) + (1,) * (3 - len(shape))
        if len(shape) != 3 or not all(1 <= side <= most for side, most in zip(shape, largest, strict=True)):
            raise InternalError(
                f"{kernel}: {what} {given} cannot be launched; each side is at least 1, at most {largest}"
            )
        sides[what] = shape
    threads = sides["block"][0] * sides["block"][1] * sides["block"][2]
    if threads > max_threads:
        raise InternalError(f"{kernel}: a block of {threads} threads; its launch bounds allow {max_threads}")
    return sides["grid"], sides["block"]
