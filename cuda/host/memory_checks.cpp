// Answers the calls that -fsanitize=thread puts at every memory access of a kernel: is it inside an argument of this
// launch, was the memory ever written, and does another thread access it with nothing to order the two?
#include "scheduler.h"

#include <cstdio>
#include <cstring>
#include <sys/mman.h>

namespace {

// Who accessed a cell, and when. Several threads that only read (or only add atomically) are kept together.
struct Access {
    uint32_t block;  // serial number; 0: nobody
    uint32_t time;   // of the latest of them
    uint32_t lanes;  // of one warp
    uint8_t warp, many_warps, atomic;
};

struct Cell {
    Access write, read;
    uint32_t other_block;  // another block that read it
};

constexpr unsigned CELL_BYTES = 2;  // the smallest type of an argument; shared arrays of bytes are not told apart

}  // namespace

struct Region {
    uint64_t begin, n_bytes;
    uint8_t *written;  // per byte: 1 once it has been written
    Cell *cells;
};

namespace {

Region shared_shadow;

// Zeroed memory that costs nothing until it is touched.
void *zeroed(size_t n_bytes) {
    void *memory = mmap(nullptr, n_bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

bool make_shadow(Region &region, uint64_t begin, uint64_t n_bytes) {
    region = {begin, n_bytes, static_cast<uint8_t *>(zeroed(n_bytes)),
              static_cast<Cell *>(zeroed((n_bytes / CELL_BYTES + 1) * sizeof(Cell)))};
    return region.written && region.cells;
}

void free_shadow(Region &region) {
    if (region.written) munmap(region.written, region.n_bytes + 1);
    if (region.cells) munmap(region.cells, (region.n_bytes / CELL_BYTES + 1) * sizeof(Cell) + 1);
    region = {};
}

struct Attempt {
    uint64_t address, n_bytes, instruction;
    bool writes, atomic;
};

const char *verb(const Attempt &attempt) { return attempt.atomic ? "updates" : attempt.writes ? "writes" : "reads"; }

[[noreturn]] void outside(const Attempt &attempt) {
    const HostLaunch &launch = *scheduler.launch;
    const int n = static_cast<int>(attempt.n_bytes);
    const HostArgument *nearest = nullptr, *null = nullptr;
    uint64_t least = ~0ull;
    for (int i = 0; i < launch.n_arguments; ++i) {
        const HostArgument &argument = launch.arguments[i];
        if (!argument.begin) {
            null = &argument;
            continue;
        }
        const uint64_t distance = attempt.address < argument.begin ? argument.begin - attempt.address
                                  : attempt.address + n > argument.end ? attempt.address + n - argument.end
                                                                       : 0;
        if (distance < least) least = distance, nearest = &argument;
    }
    // Half the address space away from everything: an index into a null pointer.
    if (null && least > attempt.address)
        fault(attempt.instruction, "%s %d bytes through the null pointer `%s`", verb(attempt), n, null->name);
    const uint64_t image = reinterpret_cast<uint64_t>(launch.image_begin);
    if (attempt.address - image < uint64_t(launch.image_end - launch.image_begin))
        fault(attempt.instruction, "%s %d bytes of a global variable of the file, or beyond shared memory",
              verb(attempt), n);
    if (!nearest) fault(attempt.instruction, "%s %d bytes that belong to no argument", verb(attempt), n);
    if (!least && attempt.writes)
        fault(attempt.instruction, "%s %d bytes at byte %llu of `%s`, which is const", verb(attempt), n,
              static_cast<unsigned long long>(attempt.address - nearest->begin), nearest->name);
    if (attempt.address < nearest->begin)
        fault(attempt.instruction, "%s %d bytes, %llu bytes before the beginning of `%s`", verb(attempt), n,
              static_cast<unsigned long long>(least), nearest->name);
    if (attempt.address < nearest->end)
        fault(attempt.instruction, "%s %d bytes across the end of `%s`", verb(attempt), n, nearest->name);
    fault(attempt.instruction, "%s %d bytes, %llu bytes behind the end of `%s`", verb(attempt), n,
          static_cast<unsigned long long>(attempt.address - nearest->end), nearest->name);
}

// "`out[12]`", or "shared memory at byte 48".
struct Place {
    char text[120];
    Place(const Attempt &attempt, const HostArgument *argument) {
        const unsigned long long offset = attempt.address - (argument ? argument->begin : shared_shadow.begin);
        if (argument)
            snprintf(text, sizeof text, "`%.80s[%llu]`", argument->name, offset / argument->item_bytes);
        else
            snprintf(text, sizeof text, "shared memory at byte %llu", offset);
    }
};

[[noreturn]] void race(const Attempt &attempt, const HostArgument *argument, const Access &other, const char *did) {
    const Place place(attempt, argument);
    if (other.block != scheduler.block_serial)
        fault(attempt.instruction, "race: %s %s, which another block %s in the same launch", verb(attempt), place.text,
              did);
    if (other.many_warps)
        fault(attempt.instruction, "race: %s %s, which other warps %s with no barrier between", verb(attempt),
              place.text, did);
    const unsigned self = scheduler.current->number;
    const unsigned lanes = other.warp == self / 32 ? other.lanes & ~(1u << self % 32) : other.lanes;
    fault(attempt.instruction, "race: %s %s, which thread %u %s with no barrier between", verb(attempt), place.text,
          other.warp * 32u + __builtin_ctz(lanes), did);
}

// Has the running thread met all of those since?
bool ordered(const Access &access) {
    if (access.time < scheduler.all_met) return true;
    const unsigned self = scheduler.current->number;
    if (access.many_warps || access.warp != self / 32) return false;
    const unsigned others = access.lanes & ~(1u << self % 32);
    const Warp &warp = scheduler.warps[access.warp];
    if (!others || access.time < warp.met) return true;
    if (!warp.partly) return false;
    for (unsigned left = others; left; left &= left - 1)
        if (warp.met_pair[__builtin_ctz(left)][self % 32] <= access.time) return false;
    return true;
}

bool conflicts(const Access &access) {
    if (access.block < scheduler.first_serial) return false;  // of an earlier launch, or nobody
    return access.block != scheduler.block_serial || !ordered(access);
}

// Add the running thread to `access`, whose threads are forgotten when they are ordered before it.
void join(Access &access, bool atomic) {
    const unsigned self = scheduler.current->number;
    const uint8_t warp = self / 32;
    if (access.block != scheduler.block_serial || ordered(access))
        access = {scheduler.block_serial, scheduler.time, 1u << self % 32, warp, false, atomic};
    else if (access.warp == warp && !access.many_warps)
        access.lanes |= 1u << self % 32;
    else
        access.many_warps = true;
    access.time = scheduler.time;
}

void check_order(const Attempt &attempt, const HostArgument *argument, Cell &cell) {
    if (conflicts(cell.write) && !(attempt.atomic && cell.write.atomic))
        race(attempt, argument, cell.write, cell.write.atomic ? "updated" : "wrote");
    if (!attempt.writes) {
        if (cell.read.block >= scheduler.first_serial && cell.read.block != scheduler.block_serial)
            cell.other_block = cell.read.block;
        return join(cell.read, false);
    }
    if (conflicts(cell.read)) race(attempt, argument, cell.read, "read");
    if (cell.other_block >= scheduler.first_serial && cell.other_block != scheduler.block_serial)
        race(attempt, argument, Access{cell.other_block, 0, 0, 0, false, false}, "read");
    if (attempt.atomic && cell.write.atomic) {
        join(cell.write, true);
    } else {
        cell.write = {};
        join(cell.write, attempt.atomic);
    }
    cell.read = {};
}

void check_cells(const Attempt &attempt, Region &region, const HostArgument *argument) {
    const uint64_t offset = attempt.address - region.begin;
    uint8_t *written = region.written + offset;
    if (!attempt.writes || attempt.atomic)
        for (uint64_t i = 0; i < attempt.n_bytes; ++i)
            if (!written[i])
                fault(attempt.instruction, "%s %s, which was never written", verb(attempt),
                      Place(attempt, argument).text);
    for (uint64_t i = offset / CELL_BYTES; i * CELL_BYTES < offset + attempt.n_bytes; ++i)
        check_order(attempt, argument, region.cells[i]);
    if (attempt.writes) memset(written, 1, attempt.n_bytes);
}

void check(const Attempt &attempt) {
    const uint64_t address = attempt.address, end = address + attempt.n_bytes;
    const HostLaunch &launch = *scheduler.launch;
    const Stack &stack = *scheduler.current->stack;
    if (address >= reinterpret_cast<uint64_t>(stack.low) && end <= reinterpret_cast<uint64_t>(stack.high)) return;
    if (address >= reinterpret_cast<uint64_t>(launch.shared_begin) &&
        end <= reinterpret_cast<uint64_t>(launch.shared_end))
        return check_cells(attempt, shared_shadow, nullptr);
    if (address - reinterpret_cast<uint64_t>(&host_position) < sizeof host_position && !attempt.writes) return;
    for (int i = 0; i < launch.n_arguments; ++i) {
        const HostArgument &argument = launch.arguments[i];
        if (address >= argument.begin && end <= argument.end && argument.begin && (argument.writable || !attempt.writes))
            return check_cells(attempt, *reinterpret_cast<Region *>(argument.region), &argument);
    }
    // Constant tables of the file.
    if (address >= reinterpret_cast<uint64_t>(launch.image_begin) &&
        end <= reinterpret_cast<uint64_t>(launch.image_end) && !attempt.writes)
        return;
    outside(attempt);
}

}  // namespace

void checks_begin_block() {
    const HostLaunch &launch = *scheduler.launch;
    const uint64_t begin = reinterpret_cast<uint64_t>(launch.shared_begin);
    const uint64_t n_bytes = launch.shared_end - launch.shared_begin;
    if (!n_bytes) return;
    if (shared_shadow.begin != begin || shared_shadow.n_bytes != n_bytes) {
        free_shadow(shared_shadow);
        make_shadow(shared_shadow, begin, n_bytes);
    }
    memset(shared_shadow.written, 0, n_bytes);
    memset(static_cast<void *>(shared_shadow.cells), 0, (n_bytes / CELL_BYTES + 1) * sizeof(Cell));
}

extern "C" {

// The shadow of an allocation, or null when there is no memory for it.
Region *host_region_new(uint64_t begin, uint64_t n_bytes) {
    Region *region = new Region{};
    if (make_shadow(*region, begin, n_bytes)) return region;
    free_shadow(*region);
    delete region;
    return nullptr;
}

void host_region_free(Region *region) {
    free_shadow(*region);
    delete region;
}

void host_region_write(Region *region, uint64_t offset, uint64_t n_bytes) {
    memset(region->written + offset, 1, n_bytes);
}

// The offset of the first byte of a range that was never written, or -1.
int64_t host_region_unwritten(Region *region, uint64_t offset, uint64_t n_bytes) {
    const void *found = memchr(region->written + offset, 0, n_bytes);
    return found ? static_cast<const uint8_t *>(found) - region->written : -1;
}

void host_atomic(const void *address, size_t n_bytes) {
    check({reinterpret_cast<uint64_t>(address), n_bytes, reinterpret_cast<uint64_t>(__builtin_return_address(0)), true,
           true});
}

#define HOOK(name, n_bytes, writes)                                                                                    \
    void name(void *address) {                                                                                         \
        check({reinterpret_cast<uint64_t>(address), n_bytes, reinterpret_cast<uint64_t>(__builtin_return_address(0)),  \
               writes, false});                                                                                        \
    }
#define HOOKS(n_bytes)                                                                                                 \
    HOOK(__tsan_read##n_bytes, n_bytes, false)                                                                         \
    HOOK(__tsan_write##n_bytes, n_bytes, true)                                                                         \
    HOOK(__tsan_unaligned_read##n_bytes, n_bytes, false)                                                               \
    HOOK(__tsan_unaligned_write##n_bytes, n_bytes, true)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *address, size_t n_bytes) {
    check({reinterpret_cast<uint64_t>(address), n_bytes, reinterpret_cast<uint64_t>(__builtin_return_address(0)), false,
           false});
}
void __tsan_write_range(void *address, size_t n_bytes) {
    check({reinterpret_cast<uint64_t>(address), n_bytes, reinterpret_cast<uint64_t>(__builtin_return_address(0)), true,
           false});
}

// -fsanitize=alignment calls this when an address does not suit the type; a card would stop with "misaligned address".
void __ubsan_handle_type_mismatch_v1(void *, uint64_t address) {
    const HostLaunch &launch = *scheduler.launch;
    const uint64_t instruction = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    for (int i = 0; i < launch.n_arguments; ++i) {
        const HostArgument &argument = launch.arguments[i];
        if (address >= argument.begin && address < argument.end)
            fault(instruction, "wide access to `%s[%llu]`, whose address is not a multiple of the width", argument.name,
                  static_cast<unsigned long long>((address - argument.begin) / argument.item_bytes));
    }
    fault(instruction, "wide access to an address that is not a multiple of the width");
}

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
}
