"""A checked host device names what is wrong with each kind of wrong kernel, and sees nothing in right ones."""

from pathlib import Path

import numpy as np
import pytest
from host_kernels import KERNEL, MODES, array, compiled, device, ones, undefined

from gpt2lab.engine.cuda.device.host import KernelFault

# What is wrong, the kernel, and what the fault of a checked device says.
FAULTS = {
    "read out of bounds": (
        "out[threadIdx.x] = x[threadIdx.x + 4];",
        r"wrong: block 0, thread 60: reads 4 bytes, 0 bytes behind the end of `x` \(try.cu:2\)",
    ),
    "read before the beginning": (
        "out[threadIdx.x] = x[(int)threadIdx.x - 2];",
        r"thread 0: reads 4 bytes, 8 bytes before the beginning of `x`",
    ),
    "write out of bounds": (
        "out[threadIdx.x + 1] = 1.0f;",
        r"thread 63: writes 4 bytes, 0 bytes behind the end of `out`",
    ),
    "wide read across the end": (
        "store_pack<4>(out + 64, load_pack<4>(x));",
        r"thread 0: writes 16 bytes, 0 bytes behind the end of `out` \(common.cuh:\d+ in try.cu:2\)",
    ),
    "wide access that is not aligned": (
        "store_pack<4>(out + 2, load_pack<4>(x));",
        r"thread 0: wide access to `out\[2\]`, whose address is not a multiple of the width",
    ),
    "write to a const argument": (
        "((float *)x)[threadIdx.x] = 1.0f;",
        r"thread 0: writes 4 bytes at byte 0 of `x`, which is const",
    ),
    "write to a global variable": (
        "static int count; out[threadIdx.x] = (float)count++;",
        r"of a global variable of the file",
    ),
    "read of what was never written": (
        "out[threadIdx.x] += 1.0f;",
        r"thread 0: reads `out\[0\]`, which was never written",
    ),
    "shared memory read before it is written": (
        "__shared__ float s[64]; out[threadIdx.x] = s[threadIdx.x];",
        r"thread 0: reads shared memory at byte \d+, which was never written",
    ),
    "shared memory of the block before": (
        "__shared__ float s[64]; if (blockIdx.x == 0) s[threadIdx.x] = 1.0f; else if (threadIdx.x == 7) out[0] = s[7];",
        r"block 1, thread 7: reads shared memory at byte \d+, which was never written",
    ),
    "race in shared memory": (
        "__shared__ float s[64]; s[threadIdx.x] = 1.0f; __syncthreads();"
        " out[threadIdx.x] = s[threadIdx.x ^ 1]; s[threadIdx.x] = 2.0f;",
        r"thread 1: race: reads shared memory at byte \d+, which thread 0 wrote with no barrier between",
    ),
    "race of a write after a read": (
        "__shared__ float s[64]; s[threadIdx.x] = 1.0f; __syncthreads();"
        " if (threadIdx.x == 0) out[0] = s[1]; if (threadIdx.x == 1) s[1] = 2.0f;",
        r"thread 1: race: writes shared memory at byte 4, which thread 0 read with no barrier between",
    ),
    "race between warps that only met their own lanes": (
        "out[threadIdx.x] = 1.0f; __syncwarp(); if (threadIdx.x == 40) out[3] = 2.0f;",
        r"thread 40: race: writes `out\[3\]`, which thread 3 wrote with no barrier between",
    ),
    "race of lanes that did not meet each other": (
        "out[threadIdx.x] = 1.0f; __syncwarp(threadIdx.x % 32 < 16 ? 0xffffu : ~0xffffu);"
        " if (threadIdx.x == 3) out[20] = 2.0f;",
        r"thread (3: race: writes `out\[20\]`, which thread 20|20: race: writes `out\[20\]`, which thread 3) wrote",
    ),
    "race between blocks": (
        "if (threadIdx.x == 0) out[5] = x[0];",
        r"block 1, thread 0: race: writes `out\[5\]`, which another block wrote in the same launch",
    ),
    "block reads what another block wrote": (
        "if (blockIdx.x == 0) out[threadIdx.x] = 1.0f; else if (threadIdx.x == 1 && out[9] > 0.0f) out[70] = 1.0f;",
        r"block 1, thread 1: race: reads `out\[9\]`, which another block wrote",
    ),
    "barrier that not all threads reach": (
        "if (threadIdx.x == 3) return; __syncthreads(); out[threadIdx.x] = 1.0f;",
        r"thread 3: exits while 3 threads wait at __syncthreads",
    ),
    "barrier after the exit of a thread": (
        "if (threadIdx.x == 0) return; __syncthreads(); out[threadIdx.x] = 1.0f;",
        r"thread 1: waits at __syncthreads \(.*try.cu:2\), but 1 threads of the block have exited",
    ),
    "different barriers": (
        "if (threadIdx.x < 32)\n__syncthreads();\nelse\n__syncthreads();",
        r"thread 63: is at __syncthreads \(.*try.cu:5\) while thread 0 is at __syncthreads \(.*try.cu:3\)",
    ),
    "barrier and shuffle wait for each other": (
        "if (threadIdx.x == 5) __syncthreads(); else warp_sum(1.0f); __syncthreads();",
        r"thread \d+: waits at __shfl_xor_sync .* while thread \d+ waits at __syncthreads",
    ),
    "shuffle with an exited lane": (
        "if (threadIdx.x == 3) return; out[threadIdx.x] = warp_sum(1.0f);",
        r"thread 3: exits while thread 0 waits for it at __shfl_xor_sync",
    ),
    "shuffle from a lane that takes no part": (
        "if (threadIdx.x < 16) __shfl_sync(0xffffu, 1.0f, 20);",
        r"thread 0: reads lane 20 at __shfl_sync .*which does not take part",
    ),
    "mask without the calling lane": (
        "__syncwarp(0xfffeu);",
        r"thread 0: calls __syncwarp .* with mask 0000fffe, which leaves out its own lane 0",
    ),
    "different places in a warp": (
        "if (threadIdx.x % 2)\n__syncwarp();\nelse\n__syncwarp();",
        r"is at __syncwarp \(.*:\d, mask ffffffff\) while thread \d+ is at __syncwarp",
    ),
    "division by zero": (
        "out[0] = 5 / (int)threadIdx.x;",
        r"thread 0: divides a whole number by zero",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_names_kernel_thread_argument_and_line(tmp_path: Path, what: str) -> None:
    body, message = FAULTS[what]
    host = device(tmp_path, checked=True)
    wrong = f"{KERNEL}wrong(float *out, const float *x) {{ {body} }}\n"
    module = compiled(host, wrong + KERNEL + "right(float *out) { out[threadIdx.x] = 1.0f; }")
    out = ones(host, 80)[:64] if "block reads" in what else undefined(host, 64)
    with pytest.raises(KernelFault, match=message):
        module.launch("wrong", 2, 64, out=out, x=ones(host))
    # The next launch is as good as the first.
    module.launch("right", 1, 64, out=out)
    assert host.download(out).tolist() == [1.0] * 64


RIGHT = {
    "shuffles of a part of a warp": "const unsigned half = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;"
    " __shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; __syncwarp(half);"
    " out[threadIdx.x] = s[threadIdx.x ^ 15] + __shfl_xor_sync(half, 1.0f, 8, 16);",
    "neighbours after a barrier": "__shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; __syncthreads();"
    " out[threadIdx.x] = s[63 - threadIdx.x] + s[0]; __syncthreads(); s[threadIdx.x] = 0.0f;",
    "a warp works alone": "const float sum = threadIdx.x < 32 ? warp_sum(x[threadIdx.x]) : 32.0f;"
    " __syncthreads(); out[threadIdx.x] = sum / 16;",
    "the last thread to exit": "__syncthreads();"
    " if (threadIdx.x < 40) { out[threadIdx.x] = 2.0f; return; } out[threadIdx.x] = 2.0f * x[0];",
    "votes": "const int n = __popc(__ballot_sync(FULL_MASK, threadIdx.x % 2));"
    " const int some = __any_sync(FULL_MASK, x[0] > 0), all = __all_sync(FULL_MASK, threadIdx.x);"
    " out[threadIdx.x] = n == 16 && some && all == (threadIdx.x >= 32) ? 2.0f : 0.0f;",
    "a constant table": "static const float table[3] = {0.0f, 1.0f, 2.0f};"
    " out[threadIdx.x] = table[(int)x[0] + (threadIdx.x < 64)];",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", RIGHT)
def test_no_fault_is_seen_in_a_right_kernel(tmp_path: Path, what: str, mode: str) -> None:
    host = device(tmp_path, **MODES[mode])
    out = undefined(host, 64, host.float_dtype)
    module = compiled(host, f"{KERNEL}right(float *out, const float *x) {{ {RIGHT[what]} }}")
    module.launch("right", 1, 64, out=out, x=ones(host))
    assert host.download(out).tolist() == [2.0] * 64


def test_whole_numbers_may_be_added_atomically_by_all_blocks(tmp_path: Path) -> None:
    host = device(tmp_path, checked=True)
    counts = array(host, np.zeros(2, dtype=np.int32))
    body = "right(int *n) { atomicAdd(n, 1); atomicMax(n + 1, (int)(threadIdx.x + blockIdx.x)); }"
    compiled(host, KERNEL + body).launch("right", 3, 64, n=counts)
    assert host.download(counts).tolist() == [192, 65]
    body = "wrong(int *n) { atomicAdd(n, 1); if (threadIdx.x == 9) n[0] = 0; }"
    with pytest.raises(KernelFault, match=r"thread 9: race: writes `n\[0\]`, which .* updated with no barrier"):
        compiled(host, KERNEL + body).launch("wrong", 1, 64, n=counts)
