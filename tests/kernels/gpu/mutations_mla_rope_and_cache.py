"""Seeded bugs of mla_rope_and_cache."""

from tests.kernels.gpu.mutations import Mutation


def _seeded(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "mla_rope_and_cache", old, new, "gpu_mla_rope_and_cache", case)


MUTATIONS = (
    _seeded(
        "pairs (i, i + P/2)",
        "tl.split(tl.reshape(x.to(tl.float32), (x.shape[0], x.shape[1] // 2, 2)))",
        "tl.split(tl.trans(tl.reshape(x.to(tl.float32), (x.shape[0], 2, x.shape[1] // 2)), 0, 2, 1))",
        "several",
    ),
    _seeded("rotated backwards", "first * cos - second * sin", "first * cos + second * sin", "several"),
    _seeded("the first of a query's columns", "heads * Q_WIDTH + Q_WIDTH - P", "heads * Q_WIDTH", "several"),
    _seeded("over the absorbed query", "heads * (R + P) + R)", "heads * (R + P))", "several"),
    _seeded("heads beyond the first group left out", "group * BLOCK_H + tl.arange", "0 * group + tl.arange", "many_heads"),
    _seeded(
        "unwritten slots written",
        "slot = tl.load(slot_mapping_ptr + token)",
        "slot = tl.maximum(tl.load(slot_mapping_ptr + token), 0)",
        "several",
    ),
    _seeded("slot of the next row", "slot * (R + P)", "(slot ^ 1) * (R + P)", "one"),
    _seeded(
        "rotated key not written",
        "            tl.store(row + R + HALF + pairs[None, :], second.to(cache_ptr.dtype.element_ty))\n",
        "",
        "one",
    ),
    _seeded("latents of contiguous rows", "token * KV_STRIDE", "token * (R + P)", "several"),
    _seeded(
        "the last column of a latent dropped",
        "mask=latent < R)\n            first",
        "mask=latent < R - 1)\n            first",
        "many_heads",
    ),
)
