"""Biases: one program per row. Penalties: one per row and BLOCK logits. Counting: one per row."""

import triton
import triton.language as tl


@triton.jit
def bias_kernel(
    logits_ptr,
    bias_ids_ptr,
    biases_ptr,
    LOGITS_STRIDE: tl.constexpr,
    BIAS_IDS_STRIDE: tl.constexpr,
    BIASES_STRIDE: tl.constexpr,
    NUM_BIASES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    ids = tl.load(bias_ids_ptr + row * BIAS_IDS_STRIDE + places, mask=places < NUM_BIASES, other=-1)
    biases = tl.load(biases_ptr + row * BIASES_STRIDE + places, mask=ids >= 0, other=0.0)
    logits = logits_ptr + row * LOGITS_STRIDE + ids
    tl.store(logits, tl.load(logits, mask=ids >= 0, other=0.0) + biases, mask=ids >= 0)


@triton.jit
def penalties_kernel(
    logits_ptr,
    slots_ptr,
    seen_ptr,
    repetition_penalties_ptr,
    frequency_penalties_ptr,
    presence_penalties_ptr,
    V: tl.constexpr,
    LOGITS_STRIDE: tl.constexpr,
    SEEN_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot >= 0:
        tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = tokens < V
        logits = logits_ptr + row * LOGITS_STRIDE + tokens
        x = tl.load(logits, mask=inside, other=0.0)
        seen = tl.load(seen_ptr + slot * SEEN_STRIDE + tokens, mask=inside, other=0)
        repetition = tl.load(repetition_penalties_ptr + row)
        scaled = tl.where(x > 0.0, tl.div_rn(x, tl.zeros_like(x) + repetition), x * repetition)
        penalized = tl.where(seen > 0, scaled, x)
        counts = seen >> 1
        charge = tl.load(frequency_penalties_ptr + row) * counts.to(tl.float32) + tl.load(presence_penalties_ptr + row)
        tl.store(logits, tl.where(counts > 0, penalized - charge, penalized), mask=inside)


@triton.jit
def count_tokens_kernel(token_ids_ptr, slots_ptr, seen_ptr, SEEN_STRIDE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot >= 0:
        # A slot is one row's: nobody else adds to it.
        entry = seen_ptr + slot * SEEN_STRIDE + tl.load(token_ids_ptr + row)
        tl.store(entry, tl.load(entry) + 2)
