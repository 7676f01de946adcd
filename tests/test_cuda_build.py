"""Every kernel compiles for three architectures without a card, keeps its registers, and stands in the table."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from gpt2lab.engine.cuda.device.offline import (
    KernelResources,
    compile_error,
    compile_offline,
    header_folders,
    kernel_resources,
    sources_hash,
    variants,
)
from gpt2lab.engine.cuda.device.sources import find_cuda_folder
from gpt2lab.errors import EngineError, InternalError

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed (extra dev)")
PROJECT = Path(__file__).parent.parent
SMALL = """// build: VEC=4:8
#include "common.cuh"
extern "C" __global__ void __launch_bounds__(64) sum(float *out, const act_t *x) {
    __shared__ float per_warp[WARP];
    out[blockIdx.x] = block_sum(to_float(load_pack<VEC>(x + threadIdx.x * VEC).at[0]), per_warp);
}
"""


@pytest.fixture
def kernels() -> ModuleType:
    """tools/kernels.py."""
    spec = importlib.util.spec_from_file_location("kernels", PROJECT / "tools" / "kernels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with common.cuh and one small kernel, sum.cu."""
    shutil.copy(find_cuda_folder() / "common.cuh", tmp_path)
    (tmp_path / "sum.cu").write_text(SMALL)
    return tmp_path


FILES = sorted(path.name for path in find_cuda_folder().glob("*.cu"))


def test_the_tables_were_made_from_the_kernels_as_they_are(kernels: ModuleType) -> None:
    tables = kernels.tables(kernels.README.read_text(encoding="utf-8"))
    assert {file: key for file, (key, _) in tables.items()} == kernels.current_hashes(), "run python tools/kernels.py"
    for file, (_, table) in tables.items():
        rows = {line.split("`")[1] for line in table.splitlines()[2:]}
        assert len(rows) == (find_cuda_folder() / file).read_text(encoding="utf-8").count("__global__ "), file


def test_a_change_of_a_file_or_of_a_header_changes_its_hash(folder: Path) -> None:
    keys = [sources_hash("sum.cu", folder)]
    for name in ("sum.cu", "common.cuh"):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("// one more line\n")
        keys.append(sources_hash("sum.cu", folder))
    assert len(set(keys)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_compiles_without_spills_as_its_table_says(kernels: ModuleType, file: str) -> None:
    found = list(kernel_resources(pattern=file))
    assert [each for each in found if each.local_bytes] == []
    table = kernels.tables(kernels.README.read_text(encoding="utf-8"))[file][1]
    assert "\n".join(kernels.rows(found)) == table, "run python tools/kernels.py --all"


def test_what_a_kernel_occupies_is_read_from_the_assembler(folder: Path) -> None:
    found = list(kernel_resources(folder))
    assert [(each.variant, each.architecture) for each in found] == [
        (variant, architecture)
        for variant in ("ACT_BF16=0 VEC=4", "ACT_BF16=1 VEC=8")
        for architecture in (80, 90, 120)
    ]
    for each in found:
        assert (each.file, each.kernel, each.shared_bytes, each.local_bytes) == ("sum.cu", "sum", 128, 0)
        assert 8 <= each.registers <= 64


def test_spilled_registers_and_arrays_in_local_memory_are_seen(folder: Path) -> None:
    (folder / "sum.cu").write_text(
        '// build: no act_t\nextern "C" __global__ void sum(float *x, int n) {\n'
        "    float all[64];\n    for (int i = 0; i < 64; ++i) all[i] = x[i];\n"
        "    for (int i = 0; i < n; ++i) all[i * n % 64] += 1.0f;\n    x[0] = all[n];\n}\n"
        'extern "C" __global__ void last(float *x) { x[0] = 1.0f; }\n'
    )
    found = {(each.kernel, each.architecture): each.local_bytes for each in kernel_resources(folder)}
    assert all(size >= 256 for (kernel, _), size in found.items() if kernel == "sum")
    assert [size for (kernel, _), size in found.items() if kernel == "last"] == [0, 0, 0]


def test_a_cubin_comes_out(folder: Path) -> None:
    cubin, _ = compile_offline(folder, "sum.cu", {"ACT_BF16": 1, "VEC": 8}, 90)
    assert cubin[:4] == b"\x7fELF"


def test_a_compile_error_names_file_and_line(folder: Path) -> None:
    (folder / "sum.cu").write_text(SMALL.replace("blockIdx.x]", "undeclared_name]"))
    with pytest.raises(
        InternalError, match=r'^/.*/sum\.cu:5: does not compile: identifier "undeclared_name" is undefined$'
    ):
        compile_offline(folder, "sum.cu", {"ACT_BF16": 0, "VEC": 4}, 90)
    (folder / "common.cuh").write_text("#error broken\n")
    with pytest.raises(InternalError, match=r"common\.cuh:1: does not compile: .*broken"):
        compile_offline(folder, "sum.cu", {"ACT_BF16": 0, "VEC": 4}, 90)
    assert (
        str(compile_error("a.cu", "nvrtc: error: invalid value\nmore"))
        == "a.cu: does not compile: nvrtc: error: invalid value"
    )


def test_the_build_line_says_which_variants_there_are() -> None:
    assert variants("// build: plain\n") == [{"ACT_BF16": 0}, {"ACT_BF16": 1}]
    assert variants("// build: no act_t; VEC=4\n") == [{"ACT_BF16": 0, "VEC": 4}]
    assert variants("// head\n// build: VEC=4:8; HEAD_SIZE=64,128\n") == [
        {"ACT_BF16": 0, "VEC": 4, "HEAD_SIZE": 64},
        {"ACT_BF16": 0, "VEC": 4, "HEAD_SIZE": 128},
        {"ACT_BF16": 1, "VEC": 8, "HEAD_SIZE": 64},
        {"ACT_BF16": 1, "VEC": 8, "HEAD_SIZE": 128},
    ]
    with pytest.raises(InternalError, match="0 lines begin with `// build:`; expected one"):
        variants("")


def test_the_table_has_one_line_per_kernel_and_variant(kernels: ModuleType) -> None:
    found = [
        KernelResources(
            file="a.cu",
            kernel="k",
            variant="ACT_BF16=0",
            architecture=a,
            registers=a // 2,
            shared_bytes=s,
            local_bytes=0,
        )
        for a, s in ((80, 128), (90, 128), (120, 256))
    ]
    assert list(kernels.rows(found))[2:] == ["| `k` | ACT_BF16=0 | 40 | 45 | 60 | 128, 256 |"]


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    monkeypatch.setattr("cuda.pathfinder.find_nvidia_header_directory", lambda name: None)
    with pytest.raises(EngineError, match=r"cuda_bf16\.h was not found; install NVIDIA's headers: pip install "):
        header_folders()
