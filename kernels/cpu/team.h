// How a call's work is divided: every thread of the team has a part of its own, contiguous as streams from memory like it, and
// takes it piece by piece from the front; who has finished takes pieces from the back of the part that has the most left. On a
// quiet machine that is an even split; where a core is slow or has other work, the others do what its thread does not.
#pragma once
#include <atomic>
#include <cstdint>

namespace cf {

struct Range {
    int64_t begin, end;
};

// One thread's part of a call. Calls are numbered by turns: what was taken in an earlier turn says nothing about this one, so
// nobody has to set it back, and a thread that comes late to a turn takes nothing.
class alignas(64) Claims {
public:
    // How many of `count` units are not taken.
    int64_t left(uint32_t turn, int64_t count) const {
        const uint64_t was = taken.load(std::memory_order_relaxed);
        if (turn_of(was) == turn) return count - front_of(was) - back_of(was);
        return int32_t(turn_of(was) - turn) < 0 ? count : 0;
    }

    // Takes a quarter of what is left, in multiples of `grain`. Nothing if nothing is left or another thread was faster.
    Range take(uint32_t turn, int64_t count, int64_t grain, bool from_front) {
        uint64_t was = taken.load(std::memory_order_relaxed);
        const bool is_fresh = turn_of(was) != turn;
        if (is_fresh && int32_t(turn_of(was) - turn) > 0) return {0, 0};
        const int64_t front = is_fresh ? 0 : front_of(was), back = is_fresh ? 0 : back_of(was), rest = count - front - back;
        const int64_t quarter = ((rest + 3) / 4 + grain - 1) / grain * grain, some = quarter < rest ? quarter : rest;
        const uint64_t now = uint64_t(turn) << 32 | uint64_t(front + (from_front ? some : 0)) << 16 | (back + (from_front ? 0 : some));
        if (some == 0 || !taken.compare_exchange_strong(was, now, std::memory_order_relaxed)) return {0, 0};
        return from_front ? Range{front, front + some} : Range{count - back - some, count - back};
    }

    // As nothing was taken, after `turn`: once in a while, so that numbers of turns can start over.
    void reset(uint32_t turn) { taken.store(uint64_t(turn) << 32, std::memory_order_relaxed); }

    // The most units that a part may have.
    static constexpr int64_t MOST = 0xffff;

private:
    static uint32_t turn_of(uint64_t taken) { return uint32_t(taken >> 32); }
    static int64_t front_of(uint64_t taken) { return taken >> 16 & MOST; }
    static int64_t back_of(uint64_t taken) { return taken & MOST; }

    std::atomic<uint64_t> taken{0};
};

// What a thread knows of the call that it takes part in.
class Work {
public:
    Work(Claims* claims, int rank, int world, uint32_t turn) : world(world), claims(claims), rank(rank), turn(turn) {}

    const int world;

    // use(range) for ranges of [0, count) that this thread took, until none is left: among all threads, each item once. Ranges
    // are of multiples of `grain` items where that is possible. At most once a call, and by all threads with the same numbers.
    template <class Use>
    void each(int64_t count, int64_t grain, Use use) {
        if (world == 1) {
            if (count) use(Range{0, count});
            return;
        }
        const int64_t unit = 1 + count / (Claims::MOST * world);
        units = (count + unit - 1) / unit;
        for (int owner = rank; owner >= 0; owner = fullest()) {
            const Range part = part_of(owner);
            const Range taken = claims[owner].take(turn, part.end - part.begin, grain, owner == rank);
            if (taken.begin == taken.end) continue;
            done += taken.end - taken.begin;
            const int64_t end = (part.begin + taken.end) * unit;
            use(Range{(part.begin + taken.begin) * unit, end < count ? end : count});
        }
    }

    // Units of the call, and how many of them this thread has done.
    int64_t units = 0, done = 0;

private:
    Range part_of(int owner) const { return {(units * owner + world - 1) / world, (units * (owner + 1) + world - 1) / world}; }

    // Whose part has the most left; -1 if all is taken.
    int fullest() const {
        int fullest = -1;
        int64_t most = 0;
        for (int owner = 0; owner < world; ++owner) {
            const Range part = part_of(owner);
            const int64_t left = claims[owner].left(turn, part.end - part.begin);
            if (left > most) most = left, fullest = owner;
        }
        return fullest;
    }

    Claims* const claims;
    const int rank;
    const uint32_t turn;
};

}  // namespace cf
