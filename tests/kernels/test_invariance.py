"""A token's numbers do not depend on its company: not on the batch, the chunking, the tile, the block size or the team."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kernels import registry
from kernels.cpu import kv_cache
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa, isa
from kernels.cpu.library import Library
from kernels.formats.table import cpu_products
from kernels.paged_attention.spec import entry_point, scratch_shapes
from kernels.quant_matmul.spec import random_weight, rows_per_token
from kernels.quantize_activations.spec import quantized_buffers
from kernels.spec import Arguments, Array, Case
from tests.kernels.accuracy import copied, make

OTHER_CONSTANTS = {
    "QUANT_MATMUL_ROWS": 6,
    "QUANT_MATMUL_VECTORS": 3,
    "QUANT_MATMUL_DECODE_VECTORS": 1,
    "PAGED_ATTENTION_ROWS": 2,
    "PAGED_ATTENTION_VECTORS": 2,
    "PAGED_ATTENTION_QUERIES": 4,
}
OF_MATRIX_TILES = {"QUANT_MATMUL_TILED_ROWS": 2, "QUANT_MATMUL_PANEL_KIB": 64, "QUANT_MATMUL_SHARED_ROWS": 16}


@pytest.fixture(scope="module")
def other_tiles(tmp_path_factory: pytest.TempPathFactory, object_cache: Path) -> Library:
    isa = best_isa(host())
    if isa.registers_per_vector > 1:
        pytest.skip(f"these tiles are not legal on {isa.name}")
    constants = OTHER_CONSTANTS | (OF_MATRIX_TILES if isa.has_tiles else {})
    return Library(build(constants, tmp_path_factory.mktemp("tiles") / "kernels.so", isa, object_cache))


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("variant", cpu_products())
def test_matmul_row_is_the_same_in_every_batch(library: Library, other_tiles: Library, variant: str, has_bias: bool) -> None:
    rng = np.random.default_rng(1)
    t, n, k = 21, 168, 192
    weight = random_weight(rng, variant, n, k, 64)
    x = rng.standard_normal((t, k), np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if has_bias else None

    def product(library: Library, rows: Array, threads: int) -> Array:
        arguments: Arguments = {**weight, "bias": bias, "out": np.zeros((len(rows), n), np.float32)}
        if variant.endswith(("a8", "a16")):
            symbol, each = ("quantize_activations_a16", 2) if variant.endswith("a16") else ("quantize_activations", 1)
            quantized = quantized_buffers(len(rows), k, each)
            library.call(symbol, {"x": rows, **quantized}, threads)
            arguments |= {f"x_{name}": array for name, array in quantized.items()}
        else:
            arguments["x"] = rows
        library.call(f"quant_matmul_{variant}", arguments, threads)
        out = arguments["out"]
        assert isinstance(out, np.ndarray)
        return out

    whole = product(library, x, 1)
    alone = np.concatenate([product(library, x[i : i + 1], 2) for i in range(t)])
    assert whole.tobytes() == alone.tobytes()
    for count in (2, 3, 5, 13):
        assert product(library, x[:count], 3).tobytes() == whole[:count].tobytes()
        assert product(other_tiles, x[:count], 1).tobytes() == whole[:count].tobytes()
    assert product(other_tiles, x, 3).tobytes() == whole.tobytes()
    assert product(other_tiles, x[:1], 1).tobytes() == whole[:1].tobytes()


@pytest.mark.parametrize("variant", cpu_products())
def test_an_experts_rows_are_those_of_its_matrix_alone(
    each_library: Library, other_tiles: Library, library: Library, variant: str
) -> None:
    """Whatever other experts have, and however many they are; those without rows are not read."""
    spec = registry.spec(f"quant_matmul_experts_{variant}")
    counts = np.array([0, 1, 40, 0, 0, 7, 2, 13, 1])
    case = Case("", {"T": int(counts.sum()), "E": len(counts), "hit": 1, "K": 192, "N": 176, "G": 64, "bias": 1, "others": 0})
    inputs = make(spec, case) | {"offsets": np.concatenate([[0], counts.cumsum()]).astype(np.int32)}
    # A NaN in a scale or a weight would show wherever the matrix is read.
    for name in {tensor.name for tensor in spec.tensors} & {"scales", "weight"}:
        array = np.asarray(inputs[name])
        array[counts == 0] = {"uint16": 0x7FC0, "uint8": 255}.get(array.dtype.name, np.nan)
    expected = copied(inputs)
    activations = [name for name in inputs if name.startswith("x")]
    each = rows_per_token(variant)
    for expert, (first, end) in enumerate(pairwise(inputs["offsets"])):  # type: ignore[arg-type]
        alone = {name: np.asarray(expected[name])[expert] for name in inputs if name not in {*activations, "offsets", "out"}}
        for name in activations:
            scale = 1 if name == "x_scales" else each
            alone[name] = np.asarray(expected[name])[first * scale : end * scale]
        library.call(f"quant_matmul_{variant}", {**alone, "out": np.asarray(expected["out"])[first:end]})
    for built, threads in ((each_library, 1), (each_library, 2), (each_library, 3), (other_tiles, 2)):
        outputs = copied(inputs)
        built.call(spec.symbol, outputs, threads)
        assert np.asarray(outputs["out"]).tobytes() == np.asarray(expected["out"]).tobytes()


def attention(
    library: Library,
    kv: str,
    block_size: int,
    chunks: list[int],
    window: int,
    threads: int,
    softcap: float = 0.0,
    has_sinks: bool = False,
) -> Array:
    """The outputs of one sequence, written and attended to in the given chunks."""
    rng = np.random.default_rng(2)
    t, hq, hkv, d = sum(chunks), 6, 2, 48
    qkv = rng.standard_normal((t, (hq + 2 * hkv) * d), np.float32)
    angles = rng.uniform(0, 6, (t, d // 2))
    num_blocks = -(-t // block_size) + 1
    caches = kv_cache.empty(kv, num_blocks, hkv, block_size, d)
    shapes = scratch_shapes(hq, hkv, d, t, 1)
    scratch = {"partials": np.zeros(shapes["partials"], np.float32), "arrived": np.zeros(shapes["arrived"], np.int32)}
    table = np.random.default_rng(block_size).permutation(num_blocks).astype(np.int32)[None]
    out = np.zeros((t, hq, d), np.float32)
    start = 0
    for count in chunks:
        positions = np.arange(start, start + count, dtype=np.int32)
        slots = table[0, positions // block_size].astype(np.int64) * block_size + positions % block_size
        rows = qkv[start : start + count]
        heads = rows.reshape(count, hq + 2 * hkv, d)
        q, k, v = heads[:, :hq], heads[:, hq : hq + hkv], heads[:, hq + hkv :]
        rope: Arguments = {
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
            "positions": positions,
            "slot_mapping": slots,
        }
        library.call(f"rope_and_cache_{kv}", {"q": q, "k": k, "v": v, **rope, **caches}, threads)
        batch: Arguments = {
            "block_tables": table,
            "seq_lens": np.array([start + count], np.int32),
            "cu_seqlens_q": np.array([0, count], np.int32),
            "scale": 0.2,
            "window": window,
        }
        rows = out[start : start + count]
        symbol, further = entry_point(kv, softcap, np.linspace(-3, 5, hq, dtype=np.float32) if has_sinks else None)
        library.call(symbol, {"q": q, "out": rows, **batch, **caches, **scratch, **further}, threads)
        start += count
    return out


@pytest.mark.parametrize(
    ("window", "softcap", "has_sinks"),
    [(0, 0.0, False), (19, 0.0, False), (90, 0.0, False), (90, 2.0, False), (0, 0.0, True), (90, 2.0, True)],
)
@pytest.mark.parametrize("kv", kv_cache.STORAGE)
def test_attention_is_the_same_however_it_is_chunked(
    each_library: Library, other_tiles: Library, library: Library, kv: str, window: int, softcap: float, has_sinks: bool
) -> None:
    form = softcap, has_sinks
    whole = attention(each_library, kv, 16, [200], window, 1, *form)
    assert np.isfinite(whole).all()
    # Alone and over three threads: the chunks of a decoding token are shared out, and joined in order.
    assert attention(each_library, kv, 16, [1] * 200, window, 3, *form).tobytes() == whole.tobytes()
    assert attention(each_library, kv, 48, [7, 30, 1, 1, 36, 125], window, 3, *form).tobytes() == whole.tobytes()
    if each_library is library:
        assert attention(other_tiles, kv, 32, [140, 60], window, 1, *form).tobytes() == whole.tobytes()


def latent_attention(library: Library, kv: str, block_size: int, chunks: list[int], threads: int, heads: int = 5) -> Array:
    """The same of latents, from the projections on: queries into their space and results out of it."""
    rng = np.random.default_rng(3)
    t, rank, pairs, nope, width = sum(chunks), 40, 3, 12, 46
    q = rng.standard_normal((t, heads, nope + 2 * pairs), np.float32)
    latents = rng.standard_normal((t, width), np.float32)
    k_up, v_up = (rng.standard_normal((heads, *shape), np.float32) / 4 for shape in ((nope, rank), (rank, 20)))
    angles = rng.uniform(0, 6, (t, pairs))
    num_blocks = -(-t // block_size) + 1
    cache = kv_cache.empty_latents(kv, num_blocks, block_size, width)
    shapes = scratch_shapes(heads, heads, rank, t, 1)
    scratch = {"partials": np.zeros(shapes["partials"], np.float32), "arrived": np.zeros(shapes["arrived"], np.int32)}
    table = np.random.default_rng(block_size).permutation(num_blocks).astype(np.int32)[None]
    out = np.zeros((t, heads, 20), np.float32)
    start = 0
    for count in chunks:
        rows = slice(start, start + count)
        positions = np.arange(start, start + count, dtype=np.int32)
        rope: Arguments = {
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
            "positions": positions,
            "slot_mapping": table[0, positions // block_size].astype(np.int64) * block_size + positions % block_size,
        }
        q_latent, attended = np.zeros((count, heads, width), np.float32), np.zeros((count, heads, rank), np.float32)
        given = {"q": q[rows], "kv": latents[rows], **rope, "q_latent": q_latent, **cache}
        library.call(f"rope_and_cache_latent_{kv}", given, threads)
        library.call("head_matmul", {"x": q[rows], "weight": k_up, "out": q_latent}, threads)
        batch: Arguments = {
            "block_tables": table,
            "seq_lens": np.array([start + count], np.int32),
            "cu_seqlens_q": np.array([0, count], np.int32),
            "scale": 0.2,
        }
        library.call(f"paged_attention_latent_{kv}", {"q": q_latent, "out": attended, **batch, **cache, **scratch}, threads)
        library.call("head_matmul", {"x": attended, "weight": v_up, "out": out[rows]}, threads)
        start += count
    return out


@pytest.mark.parametrize(("kv", "heads"), [("fp32", 5), ("bf16", 5), ("bf16", 32)])
def test_latents_are_attended_to_the_same_however_they_are_chunked(
    each_library: Library, other_tiles: Library, library: Library, kv: str, heads: int
) -> None:
    whole = latent_attention(each_library, kv, 16, [100], 1, heads)
    assert np.isfinite(whole).all() and np.abs(whole).max() > 0.1
    assert latent_attention(each_library, kv, 16, [1] * 100, 3, heads).tobytes() == whole.tobytes()
    assert latent_attention(each_library, kv, 48, [7, 30, 1, 1, 36, 25], 3, heads).tobytes() == whole.tobytes()
    if each_library is library:
        assert latent_attention(other_tiles, kv, 32, [60, 40], 1, heads).tobytes() == whole.tobytes()


def test_emulated_tiles_give_the_same_bits(library: Library, emulated_tiles: Library) -> None:
    if "amx_bf16" not in library.cpu_flags:
        pytest.skip("this machine has no tiles")
    for window in (0, 19):
        native, emulated = (attention(each, "bf16", 32, [150, 1], window, 1) for each in (library, emulated_tiles))
        assert native.tobytes() == emulated.tobytes()
    native, emulated = (latent_attention(each, "bf16", 32, [150, 1], 1) for each in (library, emulated_tiles))
    assert native.tobytes() == emulated.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("kv", kv_cache.STORAGE)
def test_attention_is_the_same_on_a_lesser_instruction_set(
    tmp_path_factory: pytest.TempPathFactory, object_cache: Path, kv: str
) -> None:
    lesser = isa("x86-64-v3")
    if missing := lesser.missing(host()):
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    built = Library(build({}, tmp_path_factory.mktemp("lesser") / "kernels.so", lesser, object_cache))
    whole = attention(built, kv, 16, [200], 90, 1)
    assert attention(built, kv, 48, [1] * 100 + [7, 30, 63], 90, 3).tobytes() == whole.tobytes()
    if kv in kv_cache.LATENT_STORAGE:
        whole = latent_attention(built, kv, 16, [150], 1)
        assert latent_attention(built, kv, 48, [1] * 50 + [7, 30, 63], 3).tobytes() == whole.tobytes()


@pytest.mark.parametrize("kv", ["fp32", "bf16", "fp16"])
def test_attention_does_not_see_what_lies_behind_the_end(each_library: Library, kv: str) -> None:
    """Blocks are reused: what a broken sequence left in one, NaN even, is nothing to the next."""
    spec = registry.spec(f"paged_attention_{kv}")
    clean = make(spec, next(case for case in spec.cases if case.name == "mixed"))
    dirty = copied(clean)
    k, v = (np.asarray(dirty[name]) for name in ("k_cache", "v_cache"))
    block_size = k.shape[3]
    for block, offset in np.argwhere(~_used(clean, len(k), block_size)):
        if kv == "bf16":
            k[block, :, :, offset] = v[block, :, offset // 2, :, offset % 2] = 0x7FC0
        else:
            k[block, :, :, offset] = v[block, :, offset] = np.nan
    for arguments in (clean, dirty):
        each_library.call(spec.symbol, arguments)
    assert np.asarray(clean["out"]).tobytes() == np.asarray(dirty["out"]).tobytes()


@pytest.mark.parametrize("kv", kv_cache.LATENT_STORAGE)
def test_latent_attention_does_not_see_what_lies_behind_the_end(each_library: Library, kv: str) -> None:
    spec = registry.spec(f"paged_attention_latent_{kv}")
    clean = make(spec, next(case for case in spec.cases if case.name == "mixed"))
    dirty = copied(clean)
    cache, block_size = np.asarray(dirty["cache"]), 16
    for block, offset in np.argwhere(~_used(clean, len(cache), block_size)):
        if kv == "bf16":
            cache[block, offset // 2, :, offset % 2] = 0x7FC0
        else:
            cache[block, offset] = np.nan
    for arguments in (clean, dirty):
        each_library.call(spec.symbol, arguments)
    assert np.asarray(clean["out"]).tobytes() == np.asarray(dirty["out"]).tobytes()


def _used(arguments: Arguments, num_blocks: int, block_size: int) -> Array:
    """Which slots hold a position of a sequence."""
    used = np.zeros((num_blocks, block_size), bool)
    for table, length in zip(np.asarray(arguments["block_tables"]), np.asarray(arguments["seq_lens"]), strict=True):
        positions = np.arange(length)
        used[table[positions // block_size], positions % block_size] = True
    return used
