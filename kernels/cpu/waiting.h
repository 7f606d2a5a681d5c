// How a thread waits for others: awake for some microseconds, then asleep, so that it takes no time from those it waits for.
#pragma once
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
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

    // Returns once the counter is not at `seen`; stays awake for `patience` before it sleeps.
    void wait(uint32_t seen, std::chrono::microseconds patience) {
        if (has_left(seen)) return;
        for (auto until = std::chrono::steady_clock::now() + patience; std::chrono::steady_clock::now() < until;)
            if (has_left(seen)) return;
        sleepers.fetch_add(1);
        while (counter.load() == seen) sleep(seen);
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
    void sleep(uint32_t seen) { syscall(SYS_futex, &counter, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0); }
    void wake() { syscall(SYS_futex, &counter, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
#else
    void sleep(uint32_t) { std::this_thread::sleep_for(std::chrono::microseconds(50)); }
    void wake() {}
#endif

    std::atomic<uint32_t> counter{0};
    std::atomic<int> sleepers{0};
};

}  // namespace cf
