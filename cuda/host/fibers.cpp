// Runs the threads of a block as fibers on one CPU thread, the blocks one after another.
//
// A thread runs until it waits at a barrier or shuffle. A stack is left only then: threads that never wait follow each
// other on one stack like the turns of a loop. The last thread to arrive goes on at once, the others in order.
// ucontext makes the stacks; the compiler's own setjmp and longjmp switch between them, since swapcontext calls the
// kernel of the operating system each time.
#include "crashes.h"
#include "scheduler.h"

#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

HostPosition host_position;
Scheduler scheduler;

namespace {

constexpr unsigned MAX_THREADS = 1024;

jmp_buf launcher;
std::vector<Stack *> all_stacks, free_stacks;
Thread threads[MAX_THREADS];
Warp warps[MAX_THREADS / 32];
uint32_t n_threads, n_exited, n_at_barrier;

// Threads that can go on, in order: a ring that holds each thread at most once.
Thread *ready[MAX_THREADS];
unsigned ready_first, n_ready;

void make_ready(Thread *thread) { ready[(ready_first + n_ready++) % MAX_THREADS] = thread; }

Thread *next_ready() {
    if (!n_ready) return nullptr;
    Thread *thread = ready[ready_first];
    ready_first = (ready_first + 1) % MAX_THREADS;
    --n_ready;
    return thread;
}

Warp &warp_of(const Thread *thread) { return warps[thread->number / 32]; }
unsigned lane_of(const Thread *thread) { return thread->number % 32; }

void become(Thread *thread) {
    scheduler.current = thread;
    host_position.thread = thread->index;
}

void run_threads();

Stack *take_stack() {
    if (free_stacks.empty()) {
        void *memory = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                            -1, 0);
        if (memory == MAP_FAILED) fault(0, "no memory for the stack of a thread");
        mprotect(memory, GUARD_BYTES, PROT_NONE);
        char *low = static_cast<char *>(memory) + GUARD_BYTES, *high = static_cast<char *>(memory) + STACK_BYTES;
        // Tops of stacks at equal distance would all fall into the same few cache lines.
        all_stacks.push_back(new Stack{{}, low, high - all_stacks.size() % 61 * 320, false});
        free_stacks.push_back(all_stacks.back());
    }
    Stack *stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
}

[[noreturn]] __attribute__((noinline)) void resume(Thread *thread) {
    become(thread);
    if (thread->stack) __builtin_longjmp(thread->state, 1);
    thread->stack = take_stack();
    if (thread->stack->made) __builtin_longjmp(thread->stack->parked, 1);
    thread->stack->made = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = thread->stack->low;
    context.uc_stack.ss_size = thread->stack->high - thread->stack->low;
    context.uc_link = nullptr;
    makecontext(&context, run_threads, 0);
    setcontext(&context);
    __builtin_unreachable();
}

[[noreturn]] void nobody_can_go_on() {
    Thread *waiting = nullptr, *other = nullptr;
    for (unsigned i = 0; i < n_threads; ++i) {
        Thread *thread = &threads[i];
        if (!thread->site.what) continue;
        if (!waiting) waiting = thread;
        else if (!other && (thread->site.line != waiting->site.line || thread->mask != waiting->mask)) other = thread;
    }
    scheduler.current = waiting;
    if (!other) fault(0, "waits at %s (%s:%d) for lanes that never come", waiting->site.what, waiting->site.file,
                      waiting->site.line);
    fault(0, "waits at %s (%s:%d) while thread %u waits at %s (%s:%d)", waiting->site.what, waiting->site.file,
          waiting->site.line, other->number, other->site.what, other->site.file, other->site.line);
}

// Let the next thread run until this one can go on. A macro, since a function would cost every switch a return that
// the processor cannot foresee.
#define WAIT(self)                                                                                                     \
    do {                                                                                                               \
        Thread *next = next_ready();                                                                                   \
        if (!next) nobody_can_go_on();                                                                                 \
        if (__builtin_setjmp((self)->state) == 0) resume(next);                                                        \
    } while (0)

void leave(Thread *self) {
    ++n_exited;
    Warp &warp = warp_of(self);
    warp.exited |= 1u << lane_of(self);
    if (n_at_barrier) fault(0, "exits while %u threads wait at __syncthreads", n_at_barrier);
    for (unsigned left = warp.arrived; left; left &= left - 1) {
        const Thread *other = self - lane_of(self) + __builtin_ctz(left);
        if (other->mask >> lane_of(self) & 1)
            fault(0, "exits while thread %u waits for it at %s (%s:%d)", other->number, other->site.what,
                  other->site.file, other->site.line);
    }
}

// The life of a stack: the threads that begin on it, one after another.
void run_threads() {
    Stack *stack = scheduler.current->stack;
    for (;;) {
        scheduler.launch->call(scheduler.launch->values);
        leave(scheduler.current);
        Thread *next = next_ready();
        if (next && !next->stack) {
            next->stack = stack;
            become(next);
            continue;
        }
        if (!next && n_exited < n_threads) nobody_can_go_on();
        free_stacks.push_back(stack);
        if (__builtin_setjmp(stack->parked) != 0) continue;
        if (next) resume(next);
        _longjmp(launcher, 1);
    }
}

Thread *in_order(unsigned i) { return &threads[scheduler.launch->reverse ? n_threads - 1 - i : i]; }

// All lanes of `group` have arrived: check that they came to the same place, and let the others go on.
void meet(Warp &warp, unsigned group, Thread *self) {
    Thread *first_lane = self - lane_of(self);
    for (unsigned left = group; left; left &= left - 1) {
        const Thread *other = first_lane + __builtin_ctz(left);
        if (other->mask != self->mask || other->site.line != self->site.line || other->site.what != self->site.what)
            fault(0, "is at %s (%s:%d, mask %08x) while thread %u is at %s (%s:%d, mask %08x)", self->site.what,
                  self->site.file, self->site.line, self->mask, other->number, other->site.what, other->site.file,
                  other->site.line, other->mask);
    }
    warp.arrived &= ~group;
    ++scheduler.time;
    if (group == warp.exist) {
        warp.met = scheduler.time;
    } else if (scheduler.launch->checked) {
        if (!warp.partly) memset(warp.met_pair, 0, sizeof warp.met_pair);
        warp.partly = true;
        for (unsigned a = group; a; a &= a - 1)
            for (unsigned b = group; b; b &= b - 1)
                warp.met_pair[__builtin_ctz(a)][__builtin_ctz(b)] = scheduler.time;
    }
    for (unsigned i = 0; i < 32; ++i) {
        Thread *other = first_lane + (scheduler.launch->reverse ? 31 - i : i);
        if (group >> lane_of(other) & 1) {
            other->site.what = nullptr;
            if (other != self) make_ready(other);
        }
    }
}

// Arrive at a place where the lanes of `mask` meet; true for the last of them, which then must call meet.
bool arrive(unsigned mask, HostSite site, unsigned &group) {
    Thread *self = scheduler.current;
    Warp &warp = warp_of(self);
    self->site = site;
    self->mask = mask;
    group = mask & warp.exist;
    if (!(mask >> lane_of(self) & 1))
        fault(0, "calls %s (%s:%d) with mask %08x, which leaves out its own lane %u", site.what, site.file, site.line,
              mask, lane_of(self));
    if (group & warp.exited)
        fault(0, "waits at %s (%s:%d) for lane %d, which has exited", site.what, site.file, site.line,
              __builtin_ctz(group & warp.exited));
    warp.arrived |= 1u << lane_of(self);
    return (warp.arrived & group) == group;
}

void run_block() {
    n_exited = n_at_barrier = ready_first = n_ready = 0;
    scheduler.current = nullptr;
    scheduler.time = 1;
    scheduler.all_met = 0;
    ++scheduler.block_serial;
    for (unsigned w = 0; w * 32 < n_threads; ++w) {
        const unsigned lanes = n_threads - w * 32;
        warps[w].exist = lanes < 32 ? (1u << lanes) - 1 : 0xffffffffu;
        warps[w].arrived = warps[w].exited = warps[w].met = warps[w].partly = 0;
    }
    for (unsigned i = 0; i < n_threads; ++i) {
        threads[i].stack = nullptr;
        threads[i].site.what = nullptr;
        make_ready(in_order(i));
    }
    if (scheduler.launch->shared_begin)
        memset(scheduler.launch->shared_begin, 0xff, scheduler.launch->shared_end - scheduler.launch->shared_begin);
    if (scheduler.launch->checked) checks_begin_block();
    if (_setjmp(launcher) == 0) resume(next_ready());
}

}  // namespace

[[noreturn]] void fault(uint64_t instruction, const char *format, ...) {
    HostLaunch *launch = scheduler.launch;
    va_list values;
    va_start(values, format);
    vsnprintf(launch->fault, sizeof launch->fault, format, values);
    va_end(values);
    const uint3 thread = scheduler.current->index, block = host_position.block;
    memcpy(launch->fault_thread, &thread, sizeof thread);
    memcpy(launch->fault_block, &block, sizeof block);
    launch->fault_instruction = instruction;
    // The fibers are left where they are; their stacks begin anew.
    free_stacks = all_stacks;
    for (Stack *stack : all_stacks) stack->made = false;
    _longjmp(launcher, 1);
}

extern "C" {

void host_barrier(HostSite site) {
    Thread *self = scheduler.current;
    if (n_exited)
        fault(0, "waits at %s (%s:%d), but %u threads of the block have exited", site.what, site.file, site.line,
              n_exited);
    self->site = site;
    self->mask = 0;
    if (++n_at_barrier < n_threads) {
        WAIT(self);
        return;
    }
    for (unsigned i = 0; i < n_threads; ++i) {
        Thread *other = in_order(i);
        if (other->site.line != site.line)
            fault(0, "is at %s (%s:%d) while thread %u is at %s (%s:%d)", site.what, site.file, site.line,
                  other->number, other->site.what, other->site.file, other->site.line);
    }
    n_at_barrier = 0;
    scheduler.all_met = ++scheduler.time;
    for (unsigned i = 0; i < n_threads; ++i) {
        Thread *other = in_order(i);
        other->site.what = nullptr;
        if (other != self) make_ready(other);
    }
}

uint64_t host_exchange(unsigned mask, uint64_t value, unsigned source, HostSite site) {
    Thread *self = scheduler.current;
    unsigned group;
    self->brought = value;
    self->source = source;
    if (!arrive(mask, site, group)) {
        WAIT(self);
        return scheduler.current->received;
    }
    Thread *first_lane = self - lane_of(self);
    meet(warp_of(self), group, self);
    for (unsigned left = group; left; left &= left - 1) {
        Thread *lane = first_lane + __builtin_ctz(left);
        if (!(group >> lane->source & 1)) {
            scheduler.current = lane;
            fault(0, "reads lane %u at %s (%s:%d), which does not take part", lane->source, site.what, site.file,
                  site.line);
        }
        lane->received = first_lane[lane->source].brought;
    }
    return self->received;
}

unsigned host_ballot(unsigned mask, bool vote, HostSite site) {
    Thread *self = scheduler.current;
    unsigned group, votes = 0;
    self->brought = vote;
    if (!arrive(mask, site, group)) {
        WAIT(self);
        return static_cast<unsigned>(scheduler.current->received);
    }
    Thread *first_lane = self - lane_of(self);
    meet(warp_of(self), group, self);
    for (unsigned left = group; left; left &= left - 1)
        votes |= static_cast<unsigned>(first_lane[__builtin_ctz(left)].brought) << __builtin_ctz(left);
    for (unsigned left = group; left; left &= left - 1) first_lane[__builtin_ctz(left)].received = votes;
    return votes;
}

// Run a launch; 0 when it went well, 1 when launch->fault says what did not.
int host_run(HostLaunch *launch) {
    scheduler.launch = launch;
    scheduler.warps = warps;
    launch->fault[0] = 0;
    const dim3 block(launch->block[0], launch->block[1], launch->block[2]);
    const dim3 grid(launch->grid[0], launch->grid[1], launch->grid[2]);
    host_position.block_dim = block;
    host_position.grid_dim = grid;
    n_threads = block.x * block.y * block.z;
    for (unsigned i = 0; i < n_threads; ++i) {
        threads[i].number = i;
        threads[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    }
    const CrashesAreFaults guard;
    scheduler.first_serial = scheduler.block_serial + 1;
    const uint64_t n_blocks = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t i = 0; i < n_blocks && !launch->fault[0]; ++i) {
        const uint64_t at = launch->reverse ? n_blocks - 1 - i : i;
        host_position.block = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
        run_block();
    }
    return launch->fault[0] != 0;
}
}
