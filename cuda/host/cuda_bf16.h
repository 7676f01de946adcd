// Takes the place of CUDA's header of this name: bfloat16 storage with the card's rounding.
#pragma once
#include "cuda_on_cpu.h"

struct __nv_bfloat16 {
    unsigned short bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    host_float32 value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

// To nearest, ties to even; too large becomes infinite; NaN becomes 0x7fff, as cvt.rn.bf16.f32 does.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const host_float32 value = static_cast<host_float32>(x);
    if (value != value) return {0x7fff};
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
