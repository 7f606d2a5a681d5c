// How a thread waits for another: spinning for some microseconds, then asleep, so that it burns no time that others could use.
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

// A counter that threads wait on.
class Awaited {
public:
    uint32_t value() const { return counter.load(); }

    // Counts on, and wakes who waits.
    void advance() {
        counter.fetch_add(1);
        if (sleepers.load()) wake();
    }

    // Returns once the counter is not at `seen`.
    void wait(uint32_t seen) {
        const auto until = std::chrono::steady_clock::now() + SPIN;
        do {
            for (int i = 0; i < 32; ++i, pause())
                if (counter.load(std::memory_order_acquire) != seen) return;
        } while (std::chrono::steady_clock::now() < until);
        sleepers.fetch_add(1);
        while (counter.load() == seen) sleep(seen);
        sleepers.fetch_sub(1);
    }

private:
    static constexpr std::chrono::microseconds SPIN{50};

#if defined(__linux__)
    static_assert(sizeof(std::atomic<uint32_t>) == 4);
    void sleep(uint32_t seen) { syscall(SYS_futex, &counter, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0); }
    void wake() { syscall(SYS_futex, &counter, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
#else
    void sleep(uint32_t) { std::this_thread::sleep_for(SPIN); }
    void wake() {}
#endif

    std::atomic<uint32_t> counter{0};
    std::atomic<int> sleepers{0};
};

}  // namespace cf
