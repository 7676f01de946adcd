#pragma once
#include <csignal>

#include "scheduler.h"

constexpr size_t STACK_BYTES = 256 << 10, GUARD_BYTES = 64 << 10;  // of a thread; the guard is a part of the stack

// While a launch runs, a crash of a kernel is a fault of that kernel like any other.
class CrashesAreFaults {
  public:
    CrashesAreFaults() {
        static char memory[64 << 10];  // a handler cannot run on a stack that has overflowed
        stack_t stack = {};
        stack.ss_sp = memory;
        stack.ss_size = sizeof memory;
        sigaltstack(&stack, &old_stack_);
        struct sigaction action = {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &action, &old_actions_[i]);
    }
    ~CrashesAreFaults() {
        for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &old_actions_[i], nullptr);
        sigaltstack(&old_stack_, nullptr);
    }

  private:
    static constexpr int SIGNALS[3] = {SIGSEGV, SIGBUS, SIGFPE};
    struct sigaction old_actions_[3];
    stack_t old_stack_;

    static void handle(int signal, siginfo_t *info, void *) {
        if (!scheduler.current) {  // not a kernel's: let it happen
            ::signal(signal, SIG_DFL);
            return;
        }
        if (signal == SIGFPE) fault(0, "divides a whole number by zero");
        const char *address = static_cast<char *>(info->si_addr), *low = scheduler.current->stack->low;
        if (address < low && address >= low - GUARD_BYTES) fault(0, "needs more than %zu KiB of stack", STACK_BYTES >> 10);
        fault(0, "accesses memory that is not there, at address %p; checked=True names the argument", info->si_addr);
    }
};
