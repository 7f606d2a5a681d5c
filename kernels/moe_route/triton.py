"""Router: fp32 logits, the experts of every token, and the order in which a grouped matmul visits (token, expert) pairs."""

import triton
import triton.language as tl


@triton.jit
def logits_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    T,
    K: tl.constexpr,
    E: tl.constexpr,
    X_STRIDE: tl.constexpr,
    K_PER_SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    bias_ptr=None,
):
    """One tile of tokens x experts over one stretch of K; `out` [splits, T, E]."""
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    experts = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    split = tl.program_id(2)
    columns = tl.arange(0, BLOCK_K)
    # Rows outside read row 0, and are not stored.
    x_rows = x_ptr + tl.where(tokens < T, tokens, 0).to(tl.int64)[:, None] * X_STRIDE
    weight_rows = weight_ptr + tl.where(experts < E, experts, 0)[None, :] * K
    acc = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for start in range(split * K_PER_SPLIT, min((split + 1) * K_PER_SPLIT, K), BLOCK_K):
        k = start + columns
        x = tl.load(x_rows + k[None, :], mask=k[None, :] < K, other=0.0)
        weight = tl.load(weight_rows + k[:, None], mask=k[:, None] < K, other=0.0)
        acc = tl.dot(x, weight, acc)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + experts, mask=experts < E, other=0.0)
        acc += tl.where(split == 0, bias, 0.0)[None, :]
    out = out_ptr + (split * T + tokens).to(tl.int64)[:, None] * E + experts[None, :]
    tl.store(out, acc, mask=(tokens < T)[:, None] & (experts < E)[None, :])


@triton.jit
def sum_splits_kernel(partial_ptr, out_ptr, num_elements, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    elements = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = elements < num_elements
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        partial = partial_ptr + (split * num_elements).to(tl.int64) + elements
        total += tl.load(partial, mask=inside, other=0.0)
    tl.store(out_ptr + elements, total, mask=inside)


@triton.jit
def _first_largest(values, index, END: tl.constexpr):
    """The lowest of the indices at which the 2-d `values` are largest; `index` is END where there is nothing."""
    largest = tl.max(tl.max(values, axis=1), axis=0)
    return tl.min(tl.min(tl.where(values == largest, index, END), axis=1), axis=0)


@triton.jit
def route_kernel(
    logits_ptr,
    bias_ptr,
    ids_ptr,
    weights_ptr,
    routed_scale,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    LOGITS_STRIDE: tl.constexpr,
    SIGMOID: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    scales_ptr=None,
):
    """One token; its experts lie in a tile [groups, experts of a group]."""
    token = tl.program_id(0).to(tl.int64)
    PER_GROUP: tl.constexpr = E // NUM_GROUPS
    groups = tl.arange(0, BLOCK_G)[:, None]
    members = tl.arange(0, BLOCK_P)[None, :]
    inside = (groups < NUM_GROUPS) & (members < PER_GROUP)
    expert = tl.where(inside, groups * PER_GROUP + members, E)
    logits = tl.load(logits_ptr + token * LOGITS_STRIDE + expert, mask=inside, other=float("-inf"))
    if SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-logits))
        # The bias has a say in the choice and none in the weight.
        choice = tl.where(inside, scores + tl.load(bias_ptr + expert, mask=inside, other=0.0), float("-inf"))
    else:
        scores = tl.exp(logits - tl.max(tl.max(logits, axis=1), axis=0))
        scores /= tl.sum(tl.sum(scores, axis=1), axis=0)
        # Softmax keeps the order; its rounding would make ties.
        choice = logits
    if TOP_GROUPS < NUM_GROUPS:
        group_score = tl.max(choice, axis=1)[:, None]
        if SIGMOID:
            best = tl.min(tl.where(choice == group_score, expert, E), axis=1)[:, None]
            group_score += tl.max(tl.where(expert == best, float("-inf"), choice), axis=1)[:, None]
        group_score = tl.where(groups < NUM_GROUPS, group_score, float("-inf"))
        allowed = groups < 0
        for _ in tl.static_range(TOP_GROUPS):
            chosen = _first_largest(tl.where(allowed, float("-inf"), group_score), groups, NUM_GROUPS)
            allowed = allowed | (groups == chosen)
        choice = tl.where(allowed, choice, float("-inf"))
    slots = tl.arange(0, BLOCK_K)
    ids = tl.zeros((BLOCK_K,), tl.int32)
    weights = tl.zeros((BLOCK_K,), tl.float32)
    for slot in tl.static_range(TOP_K):
        # A row of NaN has no largest: any expert that there is will do, as long as there is one.
        chosen = tl.minimum(_first_largest(choice, expert, E), E - 1)
        ids = tl.where(slots == slot, chosen, ids)
        weights = tl.where(slots == slot, tl.sum(tl.sum(tl.where(expert == chosen, scores, 0.0), axis=1), axis=0), weights)
        choice = tl.where(expert == chosen, float("-inf"), choice)
    if RENORMALIZE:
        weights /= tl.sum(weights, axis=0) + 1e-20
    weights *= routed_scale
    if scales_ptr is not None:
        weights *= tl.load(scales_ptr + ids, mask=slots < TOP_K, other=0.0)
    tl.store(ids_ptr + token * TOP_K + slots, ids, mask=slots < TOP_K)
    tl.store(weights_ptr + token * TOP_K + slots, weights, mask=slots < TOP_K)


@triton.jit
def align_kernel(
    ids_ptr,
    sorted_ids_ptr,
    expert_ids_ptr,
    num_padded_ptr,
    num_pairs,
    E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One expert: its blocks begin where those of the experts before it end; its pairs stand in them in ascending order."""
    expert = tl.program_id(0)
    lanes = tl.arange(0, CHUNK)
    bins = tl.arange(0, BLOCK_E)
    counts = tl.zeros((BLOCK_E,), tl.int32)
    for start in range(0, num_pairs, CHUNK):
        inside = start + lanes < num_pairs
        ids = tl.load(ids_ptr + start + lanes, mask=inside, other=0)
        counts += tl.histogram(ids, BLOCK_E, mask=inside)
    num_blocks = (counts + BLOCK_M - 1) // BLOCK_M
    first_block = tl.sum(tl.where(bins < expert, num_blocks, 0), axis=0)
    own_blocks = tl.sum(tl.where(bins == expert, num_blocks, 0), axis=0)
    own_pairs = tl.sum(tl.where(bins == expert, counts, 0), axis=0)
    tl.store(num_padded_ptr, tl.sum(num_blocks, axis=0) * BLOCK_M, mask=expert == 0)
    for block in range(own_blocks):
        tl.store(expert_ids_ptr + first_block + block, expert)

    base = sorted_ids_ptr + first_block.to(tl.int64) * BLOCK_M
    num_written = 0
    for start in range(0, num_pairs, CHUNK):
        pairs = start + lanes
        mine = (pairs < num_pairs) & (tl.load(ids_ptr + pairs, mask=pairs < num_pairs, other=-1) == expert)
        ones = mine.to(tl.int32)
        tl.store(base + num_written + tl.cumsum(ones, axis=0) - 1, pairs, mask=mine)
        num_written += tl.sum(ones, axis=0)
    # The last block is filled up with a pair that there is not.
    padding = own_pairs + tl.arange(0, BLOCK_M)
    tl.store(base + padding, tl.zeros((BLOCK_M,), tl.int32) + num_pairs, mask=padding < own_blocks * BLOCK_M)
