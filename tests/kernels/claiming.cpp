// What tests of the team need of C++: claims one at a time in whatever order, and entry points of threads that are slow.
#include <unistd.h>

#include "team.h"

namespace {

// Sleeps now and then, for up to so many microseconds; differently in every thread.
void linger(unsigned most_us) {
    static std::atomic<unsigned> threads{0};
    thread_local unsigned state = ++threads * 2654435761u;
    state = state * 1103515245u + 12345u;
    if (state >> 16 & 1) usleep((state >> 17) % most_us);
}

struct Counting {
    int64_t* times;
    int64_t count, grain;
};

struct Slowed {
    void (*entry)(const void* args, cf::Work* work);
    const void* args;
};

}  // namespace

extern "C" {

cf::Claims* claims_create(int world) { return new cf::Claims[world]; }
void claims_destroy(cf::Claims* claims) { delete[] claims; }
void claims_reset(cf::Claims* claims, int world, uint32_t turn) {
    for (int rank = 0; rank < world; ++rank) claims[rank].reset(turn);
}

cf::Work* work_create(cf::Claims* claims, int rank, int world, uint32_t turn) { return new cf::Work(claims, rank, world, turn); }
void work_destroy(cf::Work* work) { delete work; }
void work_next(cf::Work* work, int64_t count, int64_t grain, int64_t* range) {
    const cf::Range next = work->next(count, grain);
    range[0] = next.begin, range[1] = next.end;
}
// Units that this thread has done, and of the whole call.
void work_progress(cf::Work* work, int64_t* progress) { progress[0] = work->done, progress[1] = work->units; }

// An entry point that counts how often each item is done, lingering in the middle of pieces.
void count_items(const Counting* a, cf::Work* work) {
    work->each(a->count, a->grain, [&](cf::Range range) {
        for (int64_t i = range.begin; i < range.end; ++i) __atomic_add_fetch(a->times + i, 1, __ATOMIC_RELAXED);
        linger(30);
    });
}

// An entry point to whose work threads other than the process's first come 0.1 s late; each item takes as long.
void sleep_at(const Counting* a, cf::Work* work) {
    if (gettid() != getpid()) usleep(100000);
    work->each(a->count, a->grain, [&](cf::Range range) {
        for (int64_t i = range.begin; i < range.end; ++i) usleep(100000);
    });
}

// Another entry point, for threads that come late.
void slowed(const Slowed* a, cf::Work* work) {
    linger(150);
    a->entry(a->args, work);
}
}
