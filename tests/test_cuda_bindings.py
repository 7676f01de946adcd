"""What fake_cublas.py imitates, compared with NVIDIA's bindings and library where they are installed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import fake_cublas
import pytest

bindings = pytest.importorskip("nvmath.bindings", reason="nvmath-python (extra cuda12 or cuda13) is not installed")

ENUMERATIONS = {
    "cublas": ("ComputeType", "Math", "GemmAlgo"),
    "cublasLt": ("Epilogue", "ReductionScheme", "MatmulDescAttribute", "MatmulPreferenceAttribute"),
}


@pytest.mark.parametrize(("module", "calls"), [("cublas", fake_cublas.BLAS_CALLS), ("cublasLt", fake_cublas.LT_CALLS)])
def test_the_imitated_calls_take_the_arguments_of_the_bindings_in_their_order(
    module: str, calls: dict[str, str]
) -> None:
    library, fake = getattr(bindings, module), {"cublas": fake_cublas.FakeCublas, "cublasLt": fake_cublas.FakeCublasLt}
    for name, arguments in calls.items():
        declared = re.search(r"\((.*?)\)", getattr(library, name).__doc__)[1]
        assert [part.split()[-1] for part in declared.split(",") if part] == re.findall(r"\w+", arguments), name
        code = getattr(fake[module], name).__code__
        assert list(code.co_varnames[1 : code.co_argcount]) == re.findall(r"\w+", arguments), name


@pytest.mark.parametrize("module", list(ENUMERATIONS))
def test_the_imitated_enumerations_have_the_values_of_the_bindings(module: str) -> None:
    for name in ENUMERATIONS[module]:
        real = {member.name: int(member) for member in getattr(getattr(bindings, module), name)}
        assert {member.name: int(member) for member in getattr(fake_cublas, name)}.items() <= real.items(), name


def test_the_imitated_attributes_and_results_have_the_dtypes_of_the_bindings() -> None:
    lt = bindings.cublasLt
    for attribute, dtype in fake_cublas.DESC_DTYPES.items():
        assert lt.get_matmul_desc_attribute_dtype(attribute) == dtype
    for attribute, dtype in fake_cublas.PREFERENCE_DTYPES.items():
        assert lt.get_matmul_preference_attribute_dtype(attribute) == dtype
    assert lt.matmul_heuristic_result_dtype == fake_cublas.FakeCublasLt.matmul_heuristic_result_dtype


def test_the_real_library_keeps_what_descriptors_are_told(tmp_path: Path) -> None:
    """Descriptors need the library but no card; a stand-in for the driver says that there is one of CUDA 13."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    driver = "int cuInit(unsigned flags) { return 0; } int cuDriverGetVersion(int *v) { *v = 13000; return 0; }"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-x",
        "c",
        "-",
        "-o",
        str(tmp_path / "libcuda.so.1"),
    ]
    subprocess.run(command, input=driver, text=True, check=True)
    script = Path(__file__).parent / "cublas_descriptors.py"
    result = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip(f"cuBLAS is not installed: {result.stdout.strip()}")
    assert result.returncode == 0, result.stderr
