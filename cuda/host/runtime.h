// What kernels compiled for the CPU, the scheduler and the memory checks know of each other.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Where the thread that runs now is: threadIdx, blockIdx, blockDim and gridDim.
struct HostPosition {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};

// A place in a .cu file, of a barrier or shuffle.
struct HostSite {
    const char *what, *file;
    int line;
};

extern "C" {
extern HostPosition host_position;
void host_barrier(HostSite site);
// Wait for the other lanes of `mask`, then return what lane `source` brought; and the votes of all of them.
uint64_t host_exchange(unsigned mask, uint64_t value, unsigned source, HostSite site);
unsigned host_ballot(unsigned mask, bool vote, HostSite site);
void host_atomic(const void *address, size_t n_bytes);
}
