// A persistent team of threads that walks a list of calls, with a barrier between two of them.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "library.h"

namespace {

typedef void (*Entry)(const void* args, int rank, int world);

struct Instruction {
    Entry entry;
    const void* args;
};

// Waits until `done()`: spinning while that is likely to be shortest, then letting other threads run.
template <class Done>
void spin_then_yield(Done done) {
    for (int i = 0; !done(); ++i) {
        if (i < 2000) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else {
            std::this_thread::yield();
        }
    }
}

int64_t now_ns() {
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

class Team {
public:
    explicit Team(int world) : world(world) {
        for (int rank = 1; rank < world; ++rank) workers.emplace_back([this, rank] { serve(rank); });
    }

    ~Team() {
        {
            std::lock_guard<std::mutex> lock(sleep);
            stopping = true;
            generation.fetch_add(1);
        }
        awake.notify_all();
        for (auto& worker : workers) worker.join();
    }

    // With `ends`, rank 0 writes the time at which each call was over for all threads, in ns of a steady clock.
    void run(const Instruction* list, int64_t n, int64_t* ends = nullptr) {
        if (n == 0) return;  // without a barrier a worker could mistake the next list for this one
        std::lock_guard<std::mutex> one_at_a_time(running);
        instructions = list;
        count = n;
        call_ends = ends;
        if (world > 1) {
            {
                std::lock_guard<std::mutex> lock(sleep);
                generation.fetch_add(1);
            }
            awake.notify_all();
        }
        walk(0);
    }

private:
    void walk(int rank) {
        // Copies: when a worker leaves the last barrier, rank 0 may already be setting the next list.
        const Instruction* const list = instructions;
        const int64_t n = count;
        for (int64_t i = 0; i < n; ++i) {
            list[i].entry(list[i].args, rank, world);
            if (world > 1) barrier();
            if (rank == 0 && call_ends) call_ends[i] = now_ns();
        }
    }

    void barrier() {
        int64_t now = phase.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == world - 1) {
            arrived.store(0, std::memory_order_relaxed);
            phase.store(now + 1, std::memory_order_release);
        } else {
            spin_then_yield([&] { return phase.load(std::memory_order_acquire) != now; });
        }
    }

    void serve(int rank) {
        for (int64_t seen = 0;;) {
            // Steps follow each other closely, so a worker stays awake a little before it sleeps.
            for (int i = 0; i < 20000 && generation.load(std::memory_order_acquire) == seen; ++i) {
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            }
            {
                std::unique_lock<std::mutex> lock(sleep);
                awake.wait(lock, [&] { return generation.load() != seen; });
                if (stopping) return;
            }
            ++seen;
            walk(rank);
        }
    }

    const int world;
    std::vector<std::thread> workers;
    std::mutex running, sleep;
    std::condition_variable awake;
    std::atomic<int64_t> generation{0}, phase{0};
    std::atomic<int> arrived{0};
    bool stopping = false;
    const Instruction* instructions = nullptr;
    int64_t count = 0;
    int64_t* call_ends = nullptr;
};

}  // namespace

CF_ENTRY int64_t cf_abi_version() { return CF_ABI_VERSION; }

// The CPU features that this library's code uses, as /proc/cpuinfo spells them, separated by spaces.
CF_ENTRY const char* cf_cpu_flags() { return CF_CPU_FLAGS; }

CF_ENTRY void* cf_team_create(int32_t world) {
    try {
        return new Team(world);
    } catch (...) {
        return nullptr;
    }
}

CF_ENTRY void cf_team_destroy(void* team) { delete static_cast<Team*>(team); }

CF_ENTRY void cf_run(void* team, const void* instructions, int64_t count) {
    static_cast<Team*>(team)->run(static_cast<const Instruction*>(instructions), count);
}

// As cf_run, and writes how many nanoseconds each call took to `elapsed_ns`.
CF_ENTRY void cf_profile(void* team, const void* instructions, int64_t count, int64_t* elapsed_ns) {
    int64_t begin = now_ns();
    static_cast<Team*>(team)->run(static_cast<const Instruction*>(instructions), count, elapsed_ns);
    for (int64_t i = count - 1; i >= 0; --i) elapsed_ns[i] -= i ? elapsed_ns[i - 1] : begin;
}
