"""The cuda device: what it says where there is no card, and, against a stand-in for CuPy, how it calls it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cupy_stand_in import Card, CardError, Memory

from gpt2lab.engine.cuda.device import open_device
from gpt2lab.engine.cuda.device.card import CudaDevice
from gpt2lab.engine.cuda.device.offline import compile_error
from gpt2lab.engine.cuda.device.sources import find_cuda_folder, read_sources
from gpt2lab.errors import EngineError, InternalError
from gpt2lab.schema import DeviceChoice

pytest.importorskip("cuda.pathfinder", reason="cuda-pathfinder is not installed (extra dev)")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """A stand-in for CuPy on a card."""
    card = Card()
    monkeypatch.setitem(sys.modules, "cupy", card.cupy)
    return card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one kernel and a header."""
    (tmp_path / "op.cuh").write_text("// one\n")
    (tmp_path / "op.cu").write_text(
        '#include "op.cuh"\nextern "C" __global__ void fill(float *out, const act_t *x, const int *t, int n,'
        " long long m, float scale) {}\n"
    )
    return tmp_path


def test_the_card_is_described(card: Card) -> None:
    device = open_device(DeviceChoice.auto)
    assert (device.name, device.device_name, device.free_bytes()) == ("cuda", "NVIDIA Test", 107)
    assert device.details == {
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "memory_mib": 131072,
        "driver_cuda": "13.0",
        "runtime_cuda": "13.2",
        "cupy": "14.2.0",
    }


def test_arguments_reach_the_kernel_in_order_and_in_its_types(card: Card, folder: Path) -> None:
    module = CudaDevice(folder=folder).compile("op.cu", {"ACT_BF16": 1})
    out, x = Memory(np.zeros(4, np.float32)), Memory(np.zeros(4, np.uint16))
    module.launch("fill", 3, (32, 2), scale=0.5, m=5, n=4, x=x, t=None, out=out)
    [(grid, block, arguments)] = card.calls
    assert (grid, block) == ((3, 1, 1), (32, 2, 1))
    assert arguments[:2] == (out, x)
    # A null pointer has to be a value of eight bytes.
    assert [type(value) for value in arguments[2:]] == [np.uint64, np.int32, np.int64, np.float32]
    assert arguments[2:] == (0, 4, 5, 0.5)
    with pytest.raises(TypeError, match="fill: `out`: expected an array of this device"):
        module.launch("fill", 1, 1, scale=0.5, m=5, n=4, x=x, t=None, out=np.zeros(4, np.float32))
    with pytest.raises(InternalError, match="fill: a block of 129 threads; its launch bounds allow 128"):
        module.launch("fill", 1, 129, scale=0.5, m=5, n=4, x=x, t=None, out=out)
    with pytest.raises(TypeError, match=r"op\.cu has no kernel full; it has fill"):
        module.launch("full", 1, 1)


def test_a_changed_header_changes_what_the_cache_of_cupy_knows_a_kernel_by(card: Card, folder: Path) -> None:
    device = CudaDevice(folder=folder)
    codes = []
    for header in ("// one\n", "// two\n", "// one\n"):
        (folder / "op.cuh").write_text(header)
        device.compile("op.cu", {"ACT_BF16": 0})
        codes.append(card.code)
    assert codes[0] == codes[2] != codes[1]
    assert f'#line 1 "{folder}/op.cu"\n#include' in card.code
    assert f"-I{folder}" in card.options and "-DACT_BF16=0" in card.options


def test_a_compile_error_names_file_and_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    card = Card(code_error='op.cu(7): error: identifier "x" is undefined\n\n1 error detected')
    monkeypatch.setitem(sys.modules, "cupy", card.cupy)
    with pytest.raises(InternalError, match=r'^op\.cu:7: does not compile: identifier "x" is undefined$'):
        CudaDevice(folder=folder).compile("op.cu", {})


def test_a_source_may_change_as_soon_as_its_upload_returns(card: Card) -> None:
    device = CudaDevice()
    seen: list[list[int]] = []
    target, source = Memory(np.zeros(3, np.int32)), np.zeros(3, np.int32)
    for step in range(5):
        source[:] = step
        device.upload(target, source)
        card.queue.append(lambda: seen.append(target.values.tolist()))
        # Two steps may be queued; the upload of the third waits for the first.
        assert card.waits == max(0, step - 1)
    device.synchronize()
    assert seen == [[step] * 3 for step in range(5)]


def test_large_uploads_zeros_and_downloads_arrive(card: Card) -> None:
    device = CudaDevice()
    memory = device.empty(4 << 20)
    assert device.allocated_bytes == 4 << 20
    target = Memory(memory.values.view(np.float32))
    source = np.arange(1 << 20, dtype=np.float32)
    device.upload(target, source)
    assert np.array_equal(device.download(target), source)
    device.fill_zero(target)
    assert not device.download(target).any()
    with pytest.raises(TypeError, match="upload: float64"):
        device.upload(target, source.astype(np.float64))
    with pytest.raises(TypeError, match="download: expected an array of this device, got ndarray"):
        device.download(source)
    with pytest.raises(TypeError, match="fill_zero: the array must be contiguous"):
        device.fill_zero(Memory(source[::2]))


def test_a_graph_is_recorded_once_and_launched_on_the_stream(card: Card) -> None:
    device = CudaDevice()
    replay = device.capture(lambda: card.calls.append("recorded"))
    assert card.calls == ["enter stream", "begin capture", "recorded", "end capture", "upload 77", "exit stream"]
    card.calls.clear()
    replay()
    replay()
    assert card.calls == ["launch 77", "launch 77"]


@pytest.mark.parametrize("capture_fails", [False, True])
def test_an_error_while_recording_ends_the_capture(card: Card, capture_fails: bool) -> None:
    device = CudaDevice()
    card.capture_fails = capture_fails
    target = Memory(np.zeros(3, np.int32))
    with pytest.raises(InternalError, match="upload: a graph would copy the same values at every replay"):
        device.capture(lambda: device.upload(target, np.zeros(3, np.int32)))
    assert card.calls[-2:] == ["end capture", "exit stream"]
    card.capture_fails = False
    device.capture(lambda: None)


def test_what_the_card_refuses_is_one_line(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    device = CudaDevice()

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(card.cupy, "empty", refuse)
    with pytest.raises(EngineError, match="out of device memory: 3 MiB asked for, 0 MiB free"):
        device.empty(3 << 20)

    def crash() -> None:
        raise CardError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    card.queue.append(crash)
    with pytest.raises(InternalError, match=r"the card reports cudaErrorIllegalAddress: .*, for something queued"):
        device.synchronize()


INSTEAD = "choose engine=torch, or engine.device=host"


def refuse_devices() -> int:
    raise CardError("cudaErrorNoDevice: no CUDA-capable device is detected")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"driverGetVersion": lambda: 0}, "CuPy 14.2.0 for CUDA 13.2 is installed, but no NVIDIA driver was found"),
        (
            {"driverGetVersion": lambda: 12040},
            "but the driver is made for CUDA 12.4: update it, or install cupy-cuda12x instead",
        ),
        ({"driverGetVersion": lambda: 11080}, "but the driver is made for CUDA 11.8: update it; or"),
        ({"getDeviceCount": lambda: 0}, "but no card .is CUDA_VISIBLE_DEVICES empty"),
        ({"getDeviceCount": refuse_devices}, "no card can be used: cudaErrorNoDevice"),
    ],
)
def test_what_was_found_instead_of_a_card_is_said(card: Card, changed: dict[str, object], message: str) -> None:
    vars(card.cupy.cuda.runtime).update(changed)
    with pytest.raises(EngineError, match=f"{message}.*{INSTEAD}"):
        open_device(DeviceChoice.cuda)


def test_without_cupy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(EngineError, match=rf"not installed: pip install 'gpt2lab\[cuda13\]'.*{INSTEAD}"):
        open_device(DeviceChoice.auto)


def test_the_cuda_engine_runs_on_no_other_device() -> None:
    for choice in (DeviceChoice.cpu, DeviceChoice.mps):
        with pytest.raises(EngineError, match=f"device=cuda or host, not on {choice.name}; engine=torch does"):
            open_device(choice)


@pytest.fixture
def real_cupy() -> Iterator[Any]:
    """CuPy itself, where no card can be used."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
        if cupy.cuda.runtime.getDeviceCount():
            pytest.skip("there is a card")
    return cupy


def test_cupy_itself_on_a_machine_without_a_card_gives_one_line(real_cupy: Any) -> None:
    with pytest.raises(
        EngineError, match=f"CuPy {real_cupy.__version__} for CUDA .* is installed, .*{INSTEAD}"
    ) as error:
        open_device(DeviceChoice.cuda)
    assert "\n" not in str(error.value)


def test_what_cupy_is_given_compiles_with_its_compiler(real_cupy: Any, tmp_path: Path) -> None:
    from cupy.cuda import compiler

    for name, text in read_sources(find_cuda_folder(), "common.cuh").items():
        (tmp_path / name).write_text(text)
    head = '#include "common.cuh"\n\nextern "C" __global__ void fill(act_t *out, float *sum) '
    body = "{ __shared__ float per_warp[WARP]; sum[0] = block_max(to_float(out[threadIdx.x]), per_warp); }\n"
    card = Card()

    def compiled() -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cupy", card.cupy)
            CudaDevice(folder=tmp_path).compile("op.cu", {"ACT_BF16": 1})
        # What CuPy adds, and the name that it gives a source (in a folder that is gone by then).
        options = (*card.options, "-ftz=true", "--device-as-default-execution-space", "-arch=sm_90")
        return compiler._NVRTCProgram(card.code, "/gone/kernel.cu", method="cubin").compile(options)[0]

    (tmp_path / "op.cu").write_text(head + body)
    assert compiled()[:4] == b"\x7fELF"
    (tmp_path / "op.cu").write_text(head + body.replace("threadIdx.x", "undeclared"))
    with pytest.raises(compiler.CompileException) as error:
        compiled()
    assert str(compile_error("op.cu", str(error.value))).startswith(f"{tmp_path}/op.cu:3: does not compile: identifier")


def test_cupy_has_everything_that_the_device_calls(real_cupy: Any) -> None:
    runtime, cuda = real_cupy.cuda.runtime, real_cupy.cuda
    for name in vars(Card().cupy.cuda.runtime):
        assert hasattr(runtime, name), name
    for name in vars(Card().cupy.cuda):
        assert hasattr(cuda, name), name
    assert issubclass(cuda.compiler.CompileException, Exception)
    assert issubclass(cuda.memory.OutOfMemoryError, Exception)
    assert issubclass(cuda.driver.CUDADriverError, Exception)
    assert (runtime.memcpyHostToDevice, runtime.memcpyDeviceToHost) == (1, 2)
    assert {"begin_capture", "end_capture", "synchronize"} <= set(dir(cuda.Stream))
    assert {"launch", "upload"} <= set(dir(cuda.graph.Graph))
    assert "max_threads_per_block" in dir(real_cupy.RawKernel)
