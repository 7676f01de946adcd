"""The host device runs kernels as a card does, and takes good care of memory and of compiled files."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from host_kernels import KERNEL, MODES, array, compiled, device, ones, undefined

from gpt2lab.engine.cuda.device import host_build as cuda_host_build
from gpt2lab.engine.cuda.device import open_device
from gpt2lab.engine.cuda.device.host import HostDevice, KernelFault
from gpt2lab.engine.cuda.numerics import from_bfloat16, to_bfloat16
from gpt2lab.errors import EngineError, InternalError
from gpt2lab.schema import DeviceChoice

NORM = (
    KERNEL
    + """norm_rows(act_t *__restrict__ out, float *mean, const act_t *__restrict__ x, int n_embd) {
    __shared__ float per_warp[WARP];
    const long long row = (long long)blockIdx.x * n_embd;
    float sum = 0.0f, square = 0.0f;
    for (int c = threadIdx.x; c < n_embd; c += blockDim.x) sum += to_float(x[row + c]);
    const float m = block_sum(sum, per_warp) / n_embd;
    for (int c = threadIdx.x; c < n_embd; c += blockDim.x) {
        const float d = to_float(x[row + c]) - m;
        square = fmaf(d, d, square);
    }
    const float rstd = rsqrtf(block_sum(square, per_warp) / n_embd + 1e-5f);
    for (int c = threadIdx.x; c < n_embd; c += blockDim.x) store(out[row + c], (to_float(x[row + c]) - m) * rstd);
    if (threadIdx.x == 0) mean[blockIdx.x] = m;
}
"""
)


def normalized(host: HostDevice, x: np.ndarray) -> np.ndarray:
    out, mean = undefined(host, x.size, host.float_dtype).reshape(x.shape), undefined(host, len(x), host.float_dtype)
    module = compiled(host, NORM)
    module.launch("norm_rows", len(x), 128, out=out, mean=mean, x=array(host, x), n_embd=x.shape[1])
    assert np.abs(host.download(mean) - x.mean(axis=1)).max() < 1e-6
    return host.download(out)


@pytest.mark.parametrize("mode", MODES)
def test_a_kernel_with_barriers_and_shuffles_gives_what_numpy_gives(tmp_path: Path, mode: str) -> None:
    host = device(tmp_path, **MODES[mode])
    x = np.random.default_rng(1).standard_normal((5, 77)).astype(host.float_dtype)
    expected = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    # 1e-5f is a float constant in float64 mode too.
    assert np.abs(normalized(host, x) - expected).max() < (1e-11 if mode == "float64" else 2e-6)


def test_the_same_launch_gives_the_same_bits_in_both_orders(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((5, 77)).astype(np.float32)
    found = [
        normalized(device(tmp_path, **mode), x).tobytes() for mode in ({}, {}, {"reverse": True}, {"checked": True})
    ]
    assert len(set(found)) == 1


def test_shuffles_move_values_between_lanes_as_the_guide_says(tmp_path: Path) -> None:
    body = """right(int *out) {
    const int lane = threadIdx.x;
    out[lane] = __shfl_up_sync(FULL_MASK, lane, 3, 8);
    out[lane + 32] = __shfl_down_sync(FULL_MASK, lane, 3, 8);
    out[lane + 64] = __shfl_xor_sync(FULL_MASK, lane, 5, 8);
    out[lane + 96] = __shfl_sync(FULL_MASK, lane, 9, 8);
}
"""
    host = device(tmp_path)
    out = undefined(host, 128, np.int32)
    compiled(host, KERNEL + body).launch("right", 1, 32, out=out)
    up, down, xor, index = host.download(out).reshape(4, 32).tolist()
    assert up == [lane - 3 if lane % 8 >= 3 else lane for lane in range(32)]
    assert down == [lane + 3 if lane % 8 < 5 else lane for lane in range(32)]
    assert xor == [lane ^ 5 for lane in range(32)]
    assert index == [lane // 8 * 8 + 1 for lane in range(32)]


@pytest.mark.parametrize("mode", ["plain", "checked"])
def test_bfloat16_is_rounded_to_nearest_even(tmp_path: Path, mode: str) -> None:
    # Every upper half, with the lower halves at which rounding turns.
    upper = np.arange(65536, dtype=np.uint32)[:, None] << 16
    x = (upper | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)).reshape(-1).view(np.float32)
    host = device(tmp_path, **MODES[mode])
    bits, back = undefined(host, x.size, np.uint16), undefined(host, x.size)
    body = (
        "round_values(act_t *bits, float *back, const float *x, int n) {"
        " const int i = blockIdx.x * blockDim.x + threadIdx.x;"
        " if (i < n) { store(bits[i], x[i]); back[i] = to_float(bits[i]); } }"
    )
    arguments = {"bits": bits, "back": back, "x": array(host, x), "n": x.size}
    compiled(host, KERNEL + body, act_bf16=1).launch("round_values", x.size // 256, 256, **arguments)
    found, number = host.download(bits), ~np.isnan(x)
    assert np.array_equal(found[number], to_bfloat16(x)[number])
    assert set(found[~number]) == {0x7FFF}  # what cvt.rn.bf16.f32 gives
    assert np.array_equal(host.download(back), from_bfloat16(found), equal_nan=True)


def test_a_kernel_that_depends_on_the_order_of_its_threads_shows_it_in_reverse(tmp_path: Path) -> None:
    body = "last(float *out) { out[0] = (float)threadIdx.x; }"
    found = []
    for mode in ({}, {"reverse": True}):
        host = device(tmp_path, **mode)
        out = undefined(host, 1)
        compiled(host, KERNEL + body).launch("last", 1, 64, out=out)
        found.append(host.download(out)[0])
    assert found == [63, 0]


def test_guard_zones_see_a_write_beyond_an_allocation(tmp_path: Path) -> None:
    host = device(tmp_path)
    module = compiled(host, KERNEL + "wrong(float *out, int at) { out[at] = 1.0f; }")
    out = undefined(host, 64)
    for at, message in (
        (64, "wrote 0 bytes behind the end of an allocation of 256 bytes"),
        (-1, "0 bytes before the beginning of"),
    ):
        module.launch("wrong", 1, 1, out=out, at=at)
        with pytest.raises(KernelFault, match=message):
            host.synchronize()
        host.synchronize()


def test_a_crash_of_a_kernel_is_a_fault(tmp_path: Path) -> None:
    host = device(tmp_path)
    module = compiled(host, KERNEL + "wrong(float *out, const float *x, long long at) { out[0] = x[at]; }")
    with pytest.raises(KernelFault, match="wrong: block 0, thread 0: accesses memory that is not there"):
        module.launch("wrong", 1, 1, out=ones(host), x=None, at=5)
    checked = device(tmp_path, checked=True)
    module = checked.compile("try.cu", {"ACT_BF16": 0})
    with pytest.raises(KernelFault, match="through the null pointer `x`"):
        module.launch("wrong", 1, 1, out=ones(checked), x=None, at=5)


def test_new_memory_is_poisoned_aligned_and_given_back() -> None:
    host = HostDevice(checked=True)
    memory = host.empty(100)
    assert memory.ctypes.data % 256 == 0
    assert np.isnan(memory.view(np.float32)).all()
    assert host.allocated_bytes == 100
    assert len(host._allocations) == 1
    del memory
    assert host._allocations == {}
    with pytest.raises(EngineError, match="out of memory: 1000000000000000 bytes asked for"):
        host.empty(10**15)


def test_what_numpy_writes_can_be_told_to_the_checks() -> None:
    host = HostDevice(checked=True)
    memory = host.empty(64).view(np.float32)
    host.mark_written(memory[:3])
    host.require_written(memory[:3], "matmul")
    with pytest.raises(KernelFault, match="matmul: element 2 was never written"):
        host.require_written(memory[1:], "matmul")


def test_an_array_of_another_place_is_refused(tmp_path: Path) -> None:
    host = device(tmp_path)
    module = compiled(host, KERNEL + "right(float *out) { out[threadIdx.x] = 1.0f; }")
    for foreign in (np.zeros(64, dtype=np.float32), undefined(HostDevice(), 64)):
        with pytest.raises(TypeError, match="right: `out`: expected an array of this device"):
            module.launch("right", 1, 64, out=foreign)
    with pytest.raises(TypeError, match="upload: float64"):
        host.upload(undefined(host, 4), np.zeros(4))


def test_the_launch_bounds_hold(tmp_path: Path) -> None:
    host = device(tmp_path)
    module = compiled(host, "#define N 96\n" + KERNEL.replace("256", "N / 3") + "right(float *out) {}")
    with pytest.raises(InternalError, match="right: a block of 33 threads; its launch bounds allow 32"):
        module.launch("right", 1, 33, out=None)
    with pytest.raises(TypeError, match=r"try\.cu has no kernel wrong; it has right"):
        module.launch("wrong", 1, 1)


def test_a_compile_error_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match=r"try\.cu:3: does not compile: .*undeclared_name"):
        compiled(device(tmp_path), KERNEL + "wrong(float *out) {\n out[0] = undeclared_name; }")
    # A C function for floats that is not known would narrow a double.
    with pytest.raises(InternalError, match=r"try\.cu:2: does not compile: "):
        compiled(device(tmp_path, float64=True), KERNEL + "wrong(float *out) { out[0] = sinhf(out[0]); }")


def test_floats_cannot_be_added_atomically(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match=r"try\.cu:2: does not compile: "):
        compiled(device(tmp_path), KERNEL + "wrong(float *out) { atomicAdd(out, 1.0f); }")


def test_a_kernel_is_compiled_once_for_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cuda_host_build.cache_folder.cache_clear()
    try:
        host = device(tmp_path)
        compiled(host, KERNEL + "right(float *out) { out[0] = 1.0f; }")
        [first] = (tmp_path / "cache" / "gpt2lab" / "kernels").glob("try-*.so")
        written = first.stat().st_mtime_ns
        monkeypatch.setattr(cuda_host_build, "_run", None)  # a call of the compiler would fail
        compiled(host, KERNEL + "right(float *out) { out[0] = 1.0f; }")
        assert first.stat().st_mtime_ns == written
        monkeypatch.undo()
        (tmp_path / "common.cuh").write_text((tmp_path / "common.cuh").read_text() + "// changed\n")
        host.compile("try.cu", {"ACT_BF16": 0})
        assert len(list(first.parent.glob("try-*.so"))) == 2
        assert [path.name for path in first.parent.iterdir() if path.is_dir()] == []
    finally:
        cuda_host_build.cache_folder.cache_clear()


@pytest.mark.slow
def test_two_processes_may_compile_the_same_file_at_once(tmp_path: Path) -> None:
    compiled(device(tmp_path), KERNEL + "right(float *out) { out[0] = 1.0f; }")
    code = (
        "import sys, pathlib; from gpt2lab.engine.cuda.device.host import HostDevice;"
        "HostDevice(folder=pathlib.Path(sys.argv[1])).compile('try.cu', {'ACT_BF16': 0})"
    )
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache" / "gpt2lab" / "kernels").iterdir())
    assert names == ["runtime", "try"]


def test_a_cache_that_cannot_be_written_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cuda_host_build.cache_folder.cache_clear()
    try:
        assert cuda_host_build.cache_folder().name.startswith("gpt2lab-kernels-")
    finally:
        cuda_host_build.cache_folder.cache_clear()


def test_a_cache_made_in_its_place_is_gone_when_the_process_ends(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    project = str(Path(__file__).parent.parent)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file"), "PYTHONPATH": project}
    code = "from gpt2lab.engine.cuda.device.host_build import cache_folder; print(cache_folder())"
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    folder = Path(shown.stdout.strip())
    assert folder.name.startswith("gpt2lab-kernels-")
    assert not folder.exists()


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host_build.compiler.cache_clear()
    monkeypatch.setenv("PATH", "")
    try:
        with pytest.raises(EngineError, match=r"g\+\+, which was not found; install it .*apt install g\+\+"):
            HostDevice()
    finally:
        cuda_host_build.compiler.cache_clear()


def test_another_system_than_linux_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host_build.compiler.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        with pytest.raises(EngineError, match=r"device=host runs on Linux only, this is darwin: choose engine=torch"):
            cuda_host_build.compiler()
    finally:
        cuda_host_build.compiler.cache_clear()


def test_a_compiler_that_does_not_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g++").write_text("#!/bin/sh\necho it is out of order >&2; exit 3\n")
    (tmp_path / "g++").chmod(0o755)
    cuda_host_build.compiler.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        with pytest.raises(EngineError, match=r"/g\+\+ failed with status 3: it is out of order$"):
            HostDevice()
    finally:
        cuda_host_build.compiler.cache_clear()


def test_a_compiled_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "try.so").write_text("cut short")
    with pytest.raises(EngineError, match=rf"^{tmp_path}/try\.so: cannot be loaded: file too short; delete it, or set"):
        cuda_host_build.load(tmp_path / "try.so")


def test_the_host_device_is_opened_by_name_and_replays_by_running() -> None:
    host = open_device(DeviceChoice.host)
    assert host.name == "host"
    assert host.device_name
    assert "g++" in str(host.details["compiler"])
    calls: list[int] = []
    replay = host.capture(lambda: calls.append(1))
    assert calls == []
    replay()
    assert calls == [1]


def test_a_thousand_rows_take_a_moment(tmp_path: Path) -> None:
    x = np.zeros((1000, 128), dtype=np.float32)
    host = device(tmp_path)
    normalized(host, x)
    start = time.perf_counter()
    normalized(host, x)
    assert time.perf_counter() - start < 2  # 0.1 s on an idle machine
