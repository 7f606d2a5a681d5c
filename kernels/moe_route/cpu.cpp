// The router: each token's experts with their weights, and the pairs of a token and an expert sorted by expert.
#include <cmath>
#include <vector>

#include "../cpu/exp.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

namespace {

// use(first, lanes) for each sixteen of `count` values.
template <class Use>
void each_sixteen(int64_t count, Use use) {
    for (int64_t i = 0; i < count; i += LANES) use(i, int(count - i < LANES ? count - i : LANES));
}

// values[i] = e^(values[i] - the largest): their sum.
float exponentials(float* values, int64_t count) {
    float largest = values[0];
    for (int64_t i = 1; i < count; ++i) largest = values[i] > largest ? values[i] : largest;
    each_sixteen(count, [&](int64_t i, int n) {
        store_first(values + i, exp(load_first(values + i, n) - broadcast(largest)), n);
    });
    float total = 0;
    for (int64_t i = 0; i < count; ++i) total += values[i];
    return total;
}

// The first of the largest values that are left. With NaN among them it is one of those that are left.
int64_t take_largest(const float* values, uint8_t* taken, int64_t count) {
    int64_t best = -1;
    for (int64_t i = 0; i < count; ++i)
        if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
    taken[best] = 1;
    return best;
}

// Leaves -inf of every group but the best ones. A group is as good as the sum of its best `counted` experts.
void keep_best_groups(float* choice, int64_t experts, int64_t num_groups, int64_t num_kept, int counted) {
    const int64_t each = experts / num_groups;
    std::vector<float> scores(num_groups);
    std::vector<uint8_t> taken(each > num_groups ? each : num_groups);
    for (int64_t g = 0; g < num_groups; ++g) {
        taken.assign(taken.size(), 0);
        for (int i = 0; i < counted && i < each; ++i) scores[g] += choice[g * each + take_largest(choice + g * each, taken.data(), each)];
    }
    taken.assign(taken.size(), 0);
    for (int64_t i = 0; i < num_kept; ++i) take_largest(scores.data(), taken.data(), num_groups);
    for (int64_t e = 0; e < experts; ++e)
        if (!taken[e / each]) choice[e] = -INFINITY;
}

// The best experts by `choice`, weighed by `scores`, and last by `scale`(expert).
template <class Args, class Scale>
void select(const Args* a, int64_t token, const float* scores, float* choice, int counted, Scale scale) {
    if (a->topk_groups < a->num_groups) keep_best_groups(choice, a->E, a->num_groups, a->topk_groups, counted);
    thread_local std::vector<uint8_t> taken;
    taken.assign(a->E, 0);
    int32_t* ids = a->topk_ids + token * a->topk_ids_stride;
    float* weights = a->topk_weights + token * a->topk_weights_stride;
    float total = 0;
    for (int64_t slot = 0; slot < a->top_k; ++slot) {
        ids[slot] = int32_t(take_largest(choice, taken.data(), a->E));
        weights[slot] = scores[ids[slot]];
        total += weights[slot];
    }
    const float divisor = a->renormalize ? total + 1e-20f : 1.0f;
    for (int64_t slot = 0; slot < a->top_k; ++slot) weights[slot] = weights[slot] / divisor * float(a->routed_scale) * scale(ids[slot]);
}

float unscaled(int32_t) { return 1.0f; }

// Each token's experts: `score` makes scores and what experts are chosen by of a token's logits.
template <class Args, class Score, class Scale>
void route(const Args* a, Work* work, int counted, Score score, Scale scale) {
    thread_local std::vector<float> room;
    room.resize(2 * a->E);
    float* const scores = room.data();
    float* const choice = scores + a->E;
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t) {
            score(a->logits + t * a->logits_stride, scores, choice);
            select(a, t, scores, choice, counted, scale);
        }
    });
}

template <class Args, class Scale>
void route_by_softmax(const Args* a, Work* work, Scale scale) {
    route(a, work, 1, [a](const float* logits, float* scores, float* choice) {
        // By logits: softmax keeps the order, and its rounding would make ties.
        for (int64_t e = 0; e < a->E; ++e) scores[e] = choice[e] = logits[e];
        const float total = exponentials(scores, a->E);
        for (int64_t e = 0; e < a->E; ++e) scores[e] /= total;
    }, scale);
}

// Pairs by the rank of their expert, and by token within one.
template <class Args, class Rank>
void sort(const Args* a, Work* work, Rank rank) {
    // A few thousand pairs: one thread counts them faster than several would agree.
    work->each(1, 1, [&](Range) {
        const int64_t T = *a->T, E = a->ends - 1, top_k = a->top_k;
        int32_t* const ends = a->offsets + 1;
        for (int64_t e = 0; e <= E; ++e) a->offsets[e] = 0;
        auto each_pair = [&](auto use) {
            for (int64_t t = 0; t < T; ++t)
                for (int64_t slot = 0; slot < top_k; ++slot)
                    use(t, rank(a->topk_ids[t * a->topk_ids_stride + slot]), a->places[t * a->places_stride + slot]);
        };
        each_pair([&](int64_t, int32_t expert, int32_t&) { ++ends[expert]; });
        // Where an expert's pairs begin; each pair that is placed moves it on, to where they end.
        int32_t begin = 0;
        for (int64_t e = 0; e < E; ++e) {
            const int32_t count = ends[e];
            ends[e] = begin;
            begin += count;
        }
        each_pair([&](int64_t t, int32_t expert, int32_t& place) {
            place = ends[expert]++;
            a->tokens[place] = int32_t(t);
        });
    });
}

}  // namespace

void moe_route_softmax(const moe_route_softmax_args* a, Work* work) {
    route_by_softmax(a, work, unscaled);
}

void moe_route_softmax_scaled(const moe_route_softmax_scaled_args* a, Work* work) {
    route_by_softmax(a, work, [a](int32_t expert) { return a->expert_scales[expert]; });
}

void moe_route_sigmoid(const moe_route_sigmoid_args* a, Work* work) {
    route(a, work, 2, [a](const float* logits, float* scores, float* choice) {
        each_sixteen(a->E, [&](int64_t e, int n) {
            const f32x16 one = broadcast(1.0f), power = exp(zero() - load_first(logits + e, n));
            store_first(scores + e, one / (one + power), n);
        });
        for (int64_t e = 0; e < a->E; ++e) choice[e] = scores[e] + a->bias[e];
    }, unscaled);
}

void moe_sort(const moe_sort_args* a, Work* work) {
    sort(a, work, [](int32_t expert) { return expert; });
}

void moe_sort_ranked(const moe_sort_ranked_args* a, Work* work) {
    sort(a, work, [a](int32_t expert) { return a->ranks[expert]; });
}
