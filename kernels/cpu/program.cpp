// A persistent team of threads that walks a list of calls.
//
// A call is over when all its work is done, not when all threads have come: one that sleeps, or waits for a core, holds nobody
// up unless it is at a piece of work, and finds its way to whichever call is then under way.
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "library.h"
#include "team.h"
#include "waiting.h"

namespace {

typedef void (*Entry)(const void* args, cf::Work* work);

struct Instruction {
    Entry entry;
    const void* args;
};

// Within a run the last pieces of a call take less: who waits longer waits for a thread that does not run, and falling asleep and
// waking take about half of it. Between runs a step that follows at once comes within that time.
constexpr std::chrono::microseconds WITHIN_A_RUN{100}, BETWEEN_RUNS{300};

int64_t now_ns() {
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// A list of calls that is being walked. Call i is turn first + i.
struct Run {
    const Instruction* list;
    uint32_t first, count;
    int64_t* ends;  // where the time goes at which each call was over, in ns of a steady clock; or null
};

class Team {
public:
    explicit Team(int world) : world(world), claims(new cf::Claims[world]), seats(new Seat[world]) {
        try {
            for (int rank = 1; rank < world; ++rank) workers.emplace_back([this, rank] { serve(rank); });
        } catch (...) {
            stop();
            throw;
        }
    }

    ~Team() { stop(); }

    void run(const Instruction* list, uint32_t count, int64_t* ends = nullptr) {
        std::lock_guard<std::mutex> one_at_a_time(running);
        const Run run{list, turn.value() + 1, count, ends};
        for (int rank = 0; rank < world; ++rank) claims[rank].reset(run.first - 1);
        open.store(&run);
        turn.advance();
        for (uint32_t now; (now = turn.value()) - run.first < count; turn.wait(now, WITHIN_A_RUN)) take_part(run, now, 0);
        open.store(nullptr);
        // Whoever looked at this run before that may still be about to find its calls done.
        for (int rank = 1; rank < world; ++rank)
            for (int i = 0; seats[rank].taken.load(); ++i) i < 1000 ? cf::pause() : std::this_thread::sleep_for(WITHIN_A_RUN);
    }

private:
    // Whether a worker may be looking at the run that is open.
    struct alignas(64) Seat {
        std::atomic<bool> taken{false};
    };

    void stop() {
        stopping.store(true);
        turn.advance();
        for (auto& worker : workers) worker.join();
    }

    void serve(int rank) {
        while (!stopping.load()) {
            std::atomic<bool>& seat = seats[rank].taken;
            seat.store(true);
            const uint32_t now = turn.value();
            const Run* run = open.load();
            const bool is_under_way = run && now - run->first < run->count;
            if (is_under_way) take_part(*run, now, rank);
            seat.store(false, std::memory_order_release);
            turn.wait(now, is_under_way ? WITHIN_A_RUN : BETWEEN_RUNS);
        }
    }

    void take_part(const Run& run, uint32_t now, int rank) {
        const uint32_t i = now - run.first;
        cf::Work work(claims.get(), rank, world, now);
        run.list[i].entry(run.list[i].args, &work);
        // Who does the last of the work says so; where there is none, or nobody to share it with, the calling thread.
        if (work.units ? !work.done || done.fetch_add(work.done) + work.done < work.units : rank) return;
        done.store(0, std::memory_order_relaxed);
        if (run.ends) run.ends[i] = now_ns();
        turn.advance();
    }

    const int world;
    const std::unique_ptr<cf::Claims[]> claims;
    const std::unique_ptr<Seat[]> seats;
    alignas(64) cf::Awaited turn;
    alignas(64) std::atomic<int64_t> done{0};  // units of this turn
    alignas(64) std::atomic<const Run*> open{nullptr};
    std::atomic<bool> stopping{false};
    std::mutex running;
    std::vector<std::thread> workers;
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
    static_cast<Team*>(team)->run(static_cast<const Instruction*>(instructions), uint32_t(count));
}

// As cf_run, and writes how many nanoseconds each call took to `elapsed_ns`.
CF_ENTRY void cf_profile(void* team, const void* instructions, int64_t count, int64_t* elapsed_ns) {
    int64_t begin = now_ns();
    static_cast<Team*>(team)->run(static_cast<const Instruction*>(instructions), uint32_t(count), elapsed_ns);
    for (int64_t i = count - 1; i >= 0; --i) elapsed_ns[i] -= i ? elapsed_ns[i - 1] : begin;
}
