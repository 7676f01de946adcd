// The state of the block that runs, shared by fibers.cpp and memory_checks.cpp.
#pragma once
#include "runtime.h"

struct Region;  // the shadow of one allocation (memory_checks.cpp)

// One array argument of a launch. Python fills these, see gpt2lab/engine/cuda/device/host.py.
struct HostArgument {
    const char *name;
    uint64_t begin, end;  // addresses; both zero: a null pointer
    uint64_t region;      // Region *
    int32_t item_bytes, writable;
};

struct HostLaunch {
    void (*call)(void **);
    void **values;
    HostArgument *arguments;
    int32_t n_arguments, checked, reverse;
    uint32_t grid[3], block[3];
    char *shared_begin, *shared_end, *image_begin, *image_end;
    // What went wrong, and the address of the instruction that did it when it is known.
    uint32_t fault_block[3], fault_thread[3];
    uint64_t fault_instruction;
    char fault[400];
};

struct Stack {
    void *parked[5];  // where run_threads waits for the next thread to run on this stack
    char *low, *high;
    bool made;
};

struct Thread {
    void *state[5];
    uint3 index;
    uint32_t number;
    Stack *stack;  // null before it has begun
    HostSite site;  // what it waits at
    unsigned mask, source;
    uint64_t brought, received;
};

struct Warp {
    unsigned exist, arrived, exited;  // lanes, as bits
    uint32_t met;                     // time at which all its lanes last met
    bool partly;                      // some lanes met without the others
    uint32_t met_pair[32][32];        // time at which two lanes did
};

struct Scheduler {
    HostLaunch *launch;
    Thread *current;
    Warp *warps;
    // Counts meetings of threads within the block: an access is ordered before another when a meeting of both lies between.
    uint32_t time, all_met;
    uint32_t block_serial, first_serial;  // of this block, and of this launch's first, since the program began
};
extern Scheduler scheduler;

[[noreturn]] void fault(uint64_t instruction, const char *format, ...) __attribute__((format(printf, 2, 3)));
void checks_begin_block();
