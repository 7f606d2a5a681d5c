"""Seeded bugs of moe_route."""

from tests.kernels.gpu.mutations import Mutation


def _logits(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "moe_route", old, new, "gpu_moe_logits", case)


def _softmax(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "moe_route", old, new, "gpu_moe_route_softmax", case)


def _scaled(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "moe_route", old, new, "gpu_moe_route_softmax_scaled", case)


def _sigmoid(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "moe_route", old, new, "gpu_moe_route_sigmoid", case)


def _align(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "moe_route", old, new, "gpu_moe_align", case)


MUTATIONS = (
    _logits("every split from the first column", "range(split * K_PER_SPLIT,", "range(0,", "split"),
    _logits("a split runs into the next", "min((split + 1) * K_PER_SPLIT, K)", "K", "split"),
    _logits("the last expert not stored", "& (experts < E)[None, :]", "& (experts < E - 1)[None, :]", "ragged"),
    _logits("one split left out", "static_range(SPLITS)", "static_range(SPLITS - 1)", "split"),
    _logits("rows taken for contiguous", "[:, None] * X_STRIDE", "[:, None] * K", "ragged"),
    _logits("a bias for every split", "tl.where(split == 0, bias, 0.0)", "bias", "split"),
    _logits("bias left out", "tl.where(split == 0, bias, 0.0)", "0.0 * bias", "ragged"),
    _softmax("not renormalized", "    if RENORMALIZE:", "    if False:", "renormalized"),
    _softmax("the highest of equal experts", "tl.min(tl.min(tl.where(values == largest, index, END)",
             "tl.max(tl.max(tl.where(values == largest, index, -1)", "ties"),
    _softmax("a group too many", "tl.static_range(TOP_GROUPS)", "tl.static_range(TOP_GROUPS + 1)", "grouped"),
    _softmax("padded experts count", "mask=inside, other=float(\"-inf\")", "mask=inside, other=0.0", "odd_experts"),
    _softmax("routed scale left out", "weights *= routed_scale", "weights *= 1.0", "odd_groups"),
    _softmax("an expert chosen twice", "choice = tl.where(expert == chosen", "tl.where(expert == chosen", "ties"),
    _scaled("scales of slots", "scales_ptr + ids", "scales_ptr + slots", "renormalized"),
    _scaled("scales left out", "if scales_ptr is not None:", "if False:", "grouped"),
    _sigmoid("bias in the weight", "tl.where(expert == chosen, scores, 0.0)", "tl.where(expert == chosen, choice, 0.0)", "one"),
    _sigmoid("bias left out", "scores + tl.load(bias_ptr + expert, mask=inside, other=0.0)", "scores", "grouped"),
    _sigmoid("a group by its best expert alone", "if SIGMOID:\n            best", "if False:\n            best", "grouped"),
    _align("counts not rounded up", "(counts + BLOCK_M - 1) // BLOCK_M", "counts // BLOCK_M", "decode"),
    _align("chunk's count lost", "num_written += tl.sum", "num_written += 0 * tl.sum", "many"),
    _align("rank off by one", "tl.cumsum(ones, axis=0) - 1", "tl.cumsum(ones, axis=0)", "one"),
    _align("padding not marked", "mask=padding < own_blocks * BLOCK_M", "mask=padding < 0", "decode"),
    _align("expert begins with the blocks of its own", "bins < expert", "bins <= expert", "skewed"),
)  # fmt: skip
