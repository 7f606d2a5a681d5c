// How work is shared out: static and contiguous, so that no result depends on timing.
#pragma once
#include <cstdint>

namespace cf {

struct Range {
    int64_t begin, end;
};

// The rank-th of `world` nearly equal ranges of [0, count).
inline Range share(int64_t count, int rank, int world) {
    return {count * rank / world, count * (rank + 1) / world};
}

}  // namespace cf
