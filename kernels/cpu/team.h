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

// What is taken of one thread's part of a call. Calls are numbered by turns, and what was taken in an earlier turn says nothing
// about a later one: nobody has to set it back before a call, and a thread that comes late to one that is over gets nothing.
class alignas(64) Claims {
public:
    // How many units of a part of `size` are not taken.
    int64_t left(uint32_t turn, int64_t size) const {
        return size - Taken(claims.load(std::memory_order_relaxed), turn, size).sum();
    }

    // Takes a quarter of what is left of a part of `size` units, in multiples of `grain`. An empty range if nothing is left, or
    // another thread was faster.
    Range take(uint32_t turn, int64_t size, int64_t grain, bool from_front) {
        uint64_t seen = claims.load(std::memory_order_relaxed);
        Taken taken(seen, turn, size);
        const int64_t left = size - taken.sum(), wanted = ((left + 3) / 4 + grain - 1) / grain * grain;
        const int64_t count = wanted < left ? wanted : left;
        (from_front ? taken.front : taken.back) += count;
        if (count == 0 || !claims.compare_exchange_strong(seen, taken.packed(turn), std::memory_order_relaxed)) return {0, 0};
        return from_front ? Range{taken.front - count, taken.front} : Range{size - taken.back, size - taken.back + count};
    }

    // Nothing is taken in the turns after `turn`. Once in a while, so that their numbers can start over.
    void reset(uint32_t turn) { claims.store(Taken().packed(turn), std::memory_order_relaxed); }

    // The most units that a part may have.
    static constexpr int64_t MOST = 0xffff;

private:
    struct Taken {
        int64_t front = 0, back = 0;

        Taken() = default;
        // In `turn`: nothing where the last claim is an earlier turn's, all where it is a later one's.
        Taken(uint64_t claims, uint32_t turn, int64_t size) {
            const int32_t ahead = int32_t(uint32_t(claims >> 32) - turn);
            if (ahead == 0) front = claims >> 16 & MOST, back = claims & MOST;
            if (ahead > 0) front = size;
        }

        int64_t sum() const { return front + back; }
        uint64_t packed(uint32_t turn) const { return uint64_t(turn) << 32 | uint64_t(front) << 16 | uint64_t(back); }
    };

    std::atomic<uint64_t> claims{0};
};

// What a thread does of a call. It may be late, and the call over: before it has taken a range, it writes nothing, and reads only
// what no call of the program writes.
class Work {
public:
    Work(Claims* claims, int rank, int world, uint32_t turn) : world(world), claims(claims), rank(rank), turn(turn) {}

    const int world;

    // use(range) for ranges of [0, count) until none is left: among all threads, each item once. Ranges have multiples of `grain`
    // items, but for the last ones. Once a call, and by all threads with the same numbers.
    template <class Use>
    void each(int64_t count, int64_t grain, Use use) {
        if (world == 1) {
            if (count) use(Range{0, count});
            return;
        }
        for (Range range = next(count, grain); range.begin < range.end; range = next(count, grain)) use(range);
    }

    // The range that this thread does next; an empty one if all is taken.
    Range next(int64_t count, int64_t grain) {
        const int64_t unit = 1 + count / (Claims::MOST * world);
        units = (count + unit - 1) / unit;
        for (int owner = rank; owner >= 0; owner = fullest()) {
            const Range part = part_of(owner), taken = claims[owner].take(turn, part.end - part.begin, grain, owner == rank);
            if (taken.begin == taken.end) continue;
            done += taken.end - taken.begin;
            const int64_t end = (part.begin + taken.end) * unit;
            return {(part.begin + taken.begin) * unit, end < count ? end : count};
        }
        return {0, 0};
    }

    // Units of the whole call, and how many of them this thread has taken.
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
