// How a thread waits for others: awake for some microseconds, then asleep, so that it takes no time from those it waits for.
#pragma once
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <ctime>
#include <thread>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cf {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// A counter that threads wait on. It wraps around.
class Awaited {
public:
    uint32_t value() const { return counter.load(); }

    // Counts on, and wakes who sleeps.
    void advance() {
        counter.fetch_add(1);
        if (sleepers.load()) wake();
    }

    // Returns once the counter is not at `seen`; stays awake for `patience` before it sleeps, `nap` at a time where it is given.
    //
    // Whoever falls asleep leaves a core idle, and then Linux brings a thread that stands ready behind another one there,
    // but only one that has not run for 500 us (sched_migration_cost_ns). So who waits for a thread that lost its core asks again.
    void wait(uint32_t seen, std::chrono::microseconds patience, std::chrono::microseconds nap = {}) {
        if (has_left(seen)) return;
        for (auto until = std::chrono::steady_clock::now() + patience; std::chrono::steady_clock::now() < until;)
            if (has_left(seen)) return;
        sleepers.fetch_add(1);
        while (counter.load() == seen) sleep(seen, nap);
        sleepers.fetch_sub(1);
    }

private:
    bool has_left(uint32_t seen) const {
        for (int i = 0; i < 64; ++i, pause())
            if (counter.load(std::memory_order_acquire) != seen) return true;
        return false;
    }

    // Whoever counts on sees the sleeper, or the sleeper sees the count: both are sequentially consistent.
#if defined(__linux__)
    static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
    void sleep(uint32_t seen, std::chrono::microseconds nap) {
        const timespec most{0, long(std::chrono::nanoseconds(nap).count())};
        syscall(SYS_futex, &counter, FUTEX_WAIT_PRIVATE, seen, nap.count() ? &most : nullptr, nullptr, 0);
    }
    void wake() { syscall(SYS_futex, &counter, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
#else
    void sleep(uint32_t, std::chrono::microseconds) { std::this_thread::sleep_for(std::chrono::microseconds(50)); }
    void wake() {}
#endif

    std::atomic<uint32_t> counter{0};
    std::atomic<int> sleepers{0};
};

}  // namespace cf
