"""Seeded bugs of sampling."""

from tests.kernels.gpu.mutations import Mutation

_OP = "sampling"

MUTATIONS = (
    Mutation(
        "the last of the largest",
        _OP,
        "token = tl.min(tl.where(maxima == peak, first, _NEVER)",
        "token = tl.max(tl.where(maxima == peak, first, -1)",
        "gpu_sample",
        "greedy_ties",
    ),
    Mutation(
        "min_p without temperature",
        _OP,
        "tl.maximum(min_p, 1e-37))) / rate",
        "tl.maximum(min_p, 1e-37)))",
        "gpu_sample",
        "min_p",
    ),
    Mutation("temperature ignored", _OP, "rate = _LOG2_E / temperature", "rate = _LOG2_E / 1.0", "gpu_sample", "plain"),
    Mutation(
        "words out of order",
        _OP,
        "tl.join(tl.join(a, c), tl.join(b, d))",
        "tl.join(tl.join(a, b), tl.join(c, d))",
        "gpu_sample",
        "plain",
    ),
    Mutation("noise of the place, not of the token", _OP, "place = ids % 4", "place = at % 4", "gpu_sample", "top_k"),
    Mutation(
        "noise repeats in every block",
        _OP,
        "start // 4 + tl.arange(0, BLOCK // 4)",
        "tl.arange(0, BLOCK // 4)",
        "gpu_sample",
        "plain_wide",
    ),
    Mutation(
        "position not in the counter",
        _OP,
        "quads, zero + position.to(tl.uint32), zero, zero)\n            place",
        "quads, zero, zero, zero)\n            place",
        "gpu_sample",
        "top_p",
    ),
    Mutation("one token too many", _OP, "quota = top_k - count", "quota = top_k - count + 1", "gpu_sample", "top_k_ties"),
    Mutation("all ties", _OP, "tl.cumsum(tied, axis=0) <= quota", "tl.cumsum(tied, axis=0) <= num", "gpu_sample", "top_k_ties"),
    Mutation(
        "ties of earlier blocks forgotten", _OP, "            ties += tl.sum(tied, axis=0)\n", "", "gpu_sample", "crowded_ties"
    ),
    Mutation(
        "top_p of the whole row after top_k",
        _OP,
        "needed = top_p * mass",
        "needed = top_p * measure(x_ptr, num, peak, rate, _LAST_FINITE_KEY, BLOCK)[1]",
        "gpu_sample",
        "together",
    ),
    Mutation(
        "candidates overwrite each other",
        _OP,
        "tl.cumsum(within, axis=0) - 1",
        "tl.cumsum(within, axis=0)",
        "gpu_sample",
        "top_k",
    ),
    Mutation(
        "candidates of later blocks at the start",
        _OP,
        "        written += tl.sum(within, axis=0)\n",
        "        written = tl.sum(within, axis=0)\n",
        "gpu_sample",
        "together_wide",
    ),
    Mutation(
        "half of the candidates are lost",
        _OP,
        "num_compacted = num_candidates\n",
        "num_compacted = num_candidates // 2\n",
        "gpu_sample",
        "top_k",
    ),
    Mutation("half the mass is enough", _OP, "mass >= needed_mass", "2.0 * mass >= needed_mass", "gpu_sample", "top_p"),
)
