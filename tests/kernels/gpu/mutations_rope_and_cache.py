"""Seeded bugs of rope_and_cache."""

from tests.kernels.gpu.mutations import Mutation

_ACT, _FP16, _INT8, _E4M3 = (f"gpu_rope_and_cache_{kv}" for kv in ("act", "fp16", "int8", "e4m3"))


def _bug(name: str, old: str, new: str, case: str = "grouped", symbol: str = _ACT) -> Mutation:
    return Mutation(name, "rope_and_cache", old, new, symbol, case)


MUTATIONS = (
    _bug("padded token written", "tl.load(slots_ptr + token)", "tl.maximum(tl.load(slots_ptr + token), 0)"),
    _bug("sign of a rotation", "(low * cos[None, :] - high * sin[None, :])", "(low * cos[None, :] + high * sin[None, :])"),
    _bug(
        "key rotated back", "low * cos - high * sin, high * cos + low * sin", "low * cos + high * sin, high * cos - low * sin"
    ),
    _bug("sign of a lone rotation", "first * cos - second * sin", "first * cos + second * sin", symbol="gpu_rope"),
    _bug("first head alone", "tl.program_id(1) * (2 * HALF) + columns", "columns", symbol="gpu_rope"),
    _bug("angle of the token's index", "tl.load(positions_ptr + token)", "(token + tl.load(positions_ptr) * 0)"),
    _bug("neighbours are pairs", "tl.store(key + HALF", "tl.store(key + 1"),
    _bug("group of the first kv head", "(kv_head * GROUP + group)", "group", "odd_group"),
    _bug("last head of a group not rotated", "(group < GROUP)[:, None]", "(group < GROUP - 1)[:, None]", "odd_group"),
    _bug("value of the first head", "v_cache_ptr + place", "v_cache_ptr + slot * SLOT_STRIDE"),
    _bug("unrotated half cached", "_store_row(key_low, key_high,", "_store_row(low, high,", symbol=_FP16),
    _bug("unrotated key cached", "_store_row(key_low, key_high,", "_store_row(low, high,"),
    _bug(
        "scale of half the key",
        "tl.maximum(tl.max(tl.abs(low), axis=0), tl.max(tl.abs(high), axis=0))",
        "tl.max(tl.abs(low), axis=0)",
        symbol=_INT8,
    ),
    _bug("scale of the first head", "slot * SCALE_STRIDE + kv_head", "slot * SCALE_STRIDE", symbol=_E4M3),
)
