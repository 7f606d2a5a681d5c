"""Seeded bugs of paged_attention."""

from tests.kernels.gpu.mutations import Mutation

_ACT, _FP16, _INT8, _E4M3 = (f"gpu_paged_attention_{kv}" for kv in ("act", "fp16", "int8", "e4m3"))


def _bug(name: str, old: str, new: str, case: str, symbol: str = _ACT) -> Mutation:
    return Mutation(name, "paged_attention", old, new, symbol, case)


MUTATIONS = (
    _bug("causal mask dropped", " & (keys[None, :] <= positions[:, None])", "", "mixed"),
    _bug("query sees the key after it", "keys[None, :] <= positions", "keys[None, :] <= 1 + positions", "mixed"),
    _bug("window one too wide", "positions[:, None] - WINDOW", "positions[:, None] - WINDOW - 1", "decode_window"),
    _bug("window forgotten where tiles are whole", "tl.maximum(last + 1 - WINDOW, 0)", "tl.maximum(0, 0)", "decode_window"),
    _bug("whole tiles reach past the first query", "(first + 1) // TILE", "(last + TILE) // TILE", "mixed"),
    _bug("as many tiles fewer as lie before the window's edge", "before + end - whole_end if", "end - whole_end if", "window"),
    _bug("accumulator not rescaled", "value, acc * alpha[:, None])", "value, acc)", "mixed"),
    _bug("sum not rescaled", "sums = sums * alpha", "sums = sums", "mixed"),
    _bug("rows that see nothing are no numbers", "0.0, new_maxima) if MASKED", "new_maxima, new_maxima) if MASKED", "window"),
    _bug("stale slots not masked", "mask=inside[:, None] & (columns[None, :] < D)", "mask=columns[None, :] < D", "mixed"),
    _bug("stale slots of a box not masked", "if USE_TMA and inside is not None", "if USE_TMA and D == 0", "large_block"),
    _bug("neighbour of the block", "blocks.to(tl.int64)", "tl.maximum(blocks - 1, 0).to(tl.int64)", "decode"),
    _bug("offset in the block lost", " * BLOCK_SIZE + start % BLOCK_SIZE", " * BLOCK_SIZE", "large_block"),
    _bug("head's scores uncapped", "if SOFTCAP > 0:", "if SOFTCAP > 1000:", "softcap"),
    _bug("heads of the first kv head", "(kv_head * GROUP + rows % GROUP)", "(rows % GROUP)", "decode"),
    _bug("sequence of the next tile", "+ middle <= tile", "+ middle < tile", "mixed"),
    _bug("last split left out", "split * share", "(split + 1) * share", "decode"),
    _bug("parts merged without their maxima", 'other=float("-inf")) - largest)', 'other=float("-inf")) * 0)', "decode"),
    _bug(
        "a part too many", "num_parts = tl.cdiv(length - low, share)", "num_parts = tl.cdiv(length - low, share) - 1", "decode"
    ),
    _bug("sinks forgotten", "if sinks is None:", "if sinks is None or D > 0:", "sinks"),
    _bug("a sink in every part", "split == 0, sinks", "split >= 0, sinks", "decode_sinks"),
    _bug("sinks of the first kv head", "sinks_ptr + kv_head * GROUP + rows", "sinks_ptr + rows", "sinks"),
    _bug("a sink weighs nothing", "0.0, tl.exp2(tl.full", "0.0, 0.0 * tl.exp2(tl.full", "sinks"),
    _bug("a sink weighs less than p does", "OFFSET, tl.float32)))", "0.0, tl.float32)))", "decode_sinks", _INT8),
    _bug("scale of k left out", "scores *= _scales(k_scales_ptr", "_scales(k_scales_ptr", "decode", _INT8),
    _bug("scale of v is that of k", "p *= _scales(v_scales_ptr", "p *= _scales(k_scales_ptr", "mixed", _E4M3),
    _bug(
        "scale of the first head", "scales_ptr + base + kv_head + rows, mask", "scales_ptr + base + rows, mask", "mixed", _INT8
    ),
    _bug("neighbour of the block of halves", "blocks.to(tl.int64)", "tl.maximum(blocks - 1, 0).to(tl.int64)", "decode", _FP16),
    _bug("scores not scaled", "SOFTCAP if SOFTCAP > 0 else SCALE", "SOFTCAP if SOFTCAP > 0 else 1.0", "mixed", _E4M3),
)
