"""paged_attention beyond its cases: against other implementations, other points, far blocks, its assembly, its refusals."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as attention_with_sinks

from kernels import registry
from kernels.compile.cross_compile import CrossCompiler
from kernels.gpu.kernel_source import kernel_sources
from kernels.gpu.launch import Problem, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tensors import meta
from kernels.interpreter import Interpreter
from kernels.paged_attention.gpu_tuning import TUNING
from tests.kernels.gpu import contract
from tests.kernels.gpu.compiling import compile_all

_POINTS = {
    "narrow": {"BLOCK_M": 32, "TILE": 16, "PROGRAMS_PER_SM": 4, "USE_TMA": 0},
    "wide": {"BLOCK_M": 64, "TILE": 128, "PROGRAMS_PER_SM": 1, "USE_TMA": 0},
    "box": {"BLOCK_M": 32, "TILE": 64, "PROGRAMS_PER_SM": 1, "USE_TMA": 1},
}


def _arguments(case: str) -> tuple[contract.Values, SimpleNamespace]:
    """A case's inputs in fp64, and its sizes."""
    spec = registry.spec("gpu_paged_attention_act").typed("f16")
    found = next(c for c in spec.cases if c.name == case)
    return contract.values(spec, contract.make(spec, found), torch.float64), SimpleNamespace(**found.sizes)


def _dense(values: contract.Values, cache: str, sequence: int) -> torch.Tensor:
    """Keys or values of a sequence in order, [1, Hkv, length, D], block by block."""
    table, length = values["block_tables"][sequence].tolist(), int(values["seq_lens"][sequence])
    blocks = [values[cache][block] for block in table[: -(-length // values[cache].shape[1])]]
    return torch.cat(blocks)[:length].permute(1, 0, 2)[None]


@pytest.mark.parametrize("case", ["decode", "mixed"])
def test_reference_is_scaled_dot_product_attention(case: str) -> None:
    values, _ = _arguments(case)
    registry.reference("gpu_paged_attention_act")(**values)
    for s in values["seq_lens"].nonzero()[:, 0].tolist():
        start, end = values["cu_seqlens_q"][s : s + 2].tolist()
        k, v = _dense(values, "k_cache", s), _dense(values, "v_cache", s)
        seen = torch.ones(end - start, k.shape[2], dtype=torch.bool).tril(k.shape[2] - (end - start))
        q = values["q"][start:end].transpose(0, 1)[None]
        expected = scaled_dot_product_attention(q, k, v, seen, scale=values["scale"], enable_gqa=True)
        torch.testing.assert_close(values["out"][start:end], expected[0].transpose(0, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["window", "decode_window", "softcap", "sinks", "decode_sinks"])
def test_reference_is_the_attention_of_transformers(case: str) -> None:
    values, sizes = _arguments(case)
    registry.reference("gpu_paged_attention_act")(**values)
    sinks = values["sinks"]
    module = SimpleNamespace(num_key_value_groups=sizes.Hq // sizes.Hkv, training=False, sinks=sinks)
    options = {"softcap": values["softcap"] or None} if sinks is None else {}
    theirs = eager_attention_forward if sinks is None else attention_with_sinks
    for s in values["seq_lens"].nonzero()[:, 0].tolist():
        (start, end), length = values["cu_seqlens_q"][s : s + 2].tolist(), int(values["seq_lens"][s])
        visible = sliding_window_causal_mask_function(sizes.window or 1000)
        seen = visible(0, 0, torch.arange(length - (end - start), length)[:, None], torch.arange(length)[None, :])
        mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, float("-inf"))
        expected, _ = theirs(
            module,
            values["q"][start:end].transpose(0, 1)[None],
            _dense(values, "k_cache", s),
            _dense(values, "v_cache", s),
            mask,
            scaling=values["scale"],
            **options,
        )
        # Theirs takes the softmax in fp32.
        torch.testing.assert_close(values["out"][start:end], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("symbol", "case", "point"),
    [
        ("gpu_paged_attention_act", "decode_window", "narrow"),
        ("gpu_paged_attention_act", "window", "wide"),
        ("gpu_paged_attention_int8", "large_block", "box"),
        ("gpu_paged_attention_e4m3", "large_block", "box"),
        ("gpu_paged_attention_e4m3", "decode_window", "wide"),
    ],
)
def test_other_points_compute_the_same(symbol: str, case: str, point: str) -> None:
    spec = registry.spec(symbol).typed("f16")
    found = next(c for c in spec.cases if c.name == case)
    whole = _POINTS[point] | {"num_warps": 4, "num_stages": 2}
    if found.sizes["max_query_len"] > 1:
        whole["PROGRAMS_PER_SM"] = 1
    assert not contract.violations(spec, found, Interpreter().run, whole)


@pytest.mark.parametrize("kv", ["act", "int8"])
def test_sinks_are_a_tensor_more_where_there_are_some(compiler: CrossCompiler, kv: str) -> None:
    """Kernels without them are asked for as they were before there were any, so that frozen ones are found."""
    spec = registry.spec(f"gpu_paged_attention_{kv}").typed("f16")
    calls = (contract.call(spec, case) for case in spec.cases if case.name in ("decode", "decode_sinks"))
    plain, with_sinks = (list(kernel_sources(registry.plan_call(call, contract.TARGET), call, "sm_90")) for call in calls)
    assert all("sinks_ptr" not in {*dict(source.signature), *dict(source.constants)} for source in plain)
    assert ["sinks_ptr" in dict(source.signature) for source in with_sinks] == [True, False]
    compile_all(compiler, with_sinks)


def test_a_block_beyond_two_to_the_31(tmp_path: Path) -> None:
    """rope_and_cache writes five tokens there, and attention of the last one reads them."""
    block_size, head_dim, length = 16, 16, 5
    num_blocks = 2**31 // (block_size * head_dim) + 3
    cache = TensorMeta.contiguous("f16", num_blocks, block_size, 1, head_dim)
    # A sparse file: pages that nobody touches take no memory. The tensors are its first elements.
    for name in ("k", "v"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(cache.nbytes)
    files = {name: (tmp_path / name).open("r+b") for name in ("k", "v")}
    memory = {f"{name}_cache": mmap.mmap(file.fileno(), cache.nbytes) for name, file in files.items()}
    caches = {name: torch.frombuffer(mapped, dtype=torch.float16, count=8) for name, mapped in memory.items()}

    torch.manual_seed(0)
    q, k, v = (torch.randn(length, 1, head_dim, dtype=torch.float16) for _ in range(3))
    angles = torch.rand(8, head_dim // 2)
    rope = {"q": q, "k": k, "v": v, "cos": angles.cos(), "sin": angles.sin()} | {
        "positions": torch.arange(length, dtype=torch.int32),
        "slot_mapping": (num_blocks - 1) * block_size + torch.arange(length),
    }
    _launch("gpu_rope_and_cache_act", rope, caches, cache, {})
    attention = {"q": q[-1:], "out": torch.zeros(1, 1, head_dim, dtype=torch.float16)} | {
        "block_tables": torch.tensor([[num_blocks - 1]], dtype=torch.int32),
        "seq_lens": torch.tensor([length], dtype=torch.int32),
        "cu_seqlens_q": torch.tensor([0, 1], dtype=torch.int32),
    }
    scalars = {"scale": 0.25, "window": 0, "softcap": 0.0, "max_query_len": 1}
    _launch("gpu_paged_attention_act", attention, caches, cache, scalars)

    expected = scaled_dot_product_attention(*(x.transpose(0, 1).float() for x in (q[-1:], k, v)), scale=0.25)
    torch.testing.assert_close(attention["out"][0].float(), expected[0], rtol=2e-3, atol=2e-3)


def _launch(
    symbol: str,
    tensors: dict[str, torch.Tensor],
    caches: dict[str, torch.Tensor],
    cache: TensorMeta,
    scalars: dict[str, float],
) -> None:
    metas = {name: meta(tensor) for name, tensor in tensors.items()} | dict.fromkeys(caches, cache)
    Interpreter().run(registry.plan_call(Problem(symbol, metas, scalars), contract.TARGET), {**tensors, **caches})


def test_assembly_makes_every_int8_code_the_f16_number() -> None:
    """Executes the PTX that stands in the kernel; elsewhere its twin is a plain conversion."""
    text = (registry.ROOT / "paged_attention" / "triton.py").read_text(encoding="utf-8")
    body = re.search(r'inline_asm_elementwise\(\s*"""(.*?)"""', text, re.DOTALL)
    assert body is not None
    codes = np.arange(-128, 128).astype(np.int8)
    registers: dict[str, np.ndarray] = {"$2": codes.view(np.uint32)}

    def value(operand: str) -> np.ndarray:
        return registers[operand] if operand in registers else np.full(64, int(operand, 16), np.uint32)

    for operation, operands in re.findall(r"^\s*(xor\.b32|mov\.b32|prmt\.b32|sub\.f16x2) (.*);$", body[1], re.MULTILINE):
        target, *sources = (operand.strip() for operand in operands.split(","))
        given = [value(source) for source in sources]
        if operation == "prmt.b32":
            both = np.stack([given[0], given[1]], axis=1).view(np.uint8)
            picked = [both[:, int(sources[2], 16) >> 4 * byte & 0xF] for byte in range(4)]
            registers[target] = np.stack(picked, axis=1).copy().view(np.uint32)[:, 0]
        elif operation == "sub.f16x2":
            registers[target] = (given[0].view(np.float16) - given[1].view(np.float16)).view(np.uint32)
        else:
            registers[target] = given[0] ^ given[1] if operation == "xor.b32" else given[0]
    pairs = np.stack([registers["$0"], registers["$1"]], axis=1).view(np.float16)
    assert (pairs.reshape(-1) == codes).all()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"arch": "sm_80", "kv": "e4m3"}, "sm_80 has no e4m3"),
        ({"arch": "sm_80", "USE_TMA": 1}, "sm_80 has no TMA"),
        ({"USE_TMA": 1, "block_size": 32}, "a box of 64 keys crosses blocks of 32"),
        ({"USE_TMA": 1, "head_dim": 80}, "a box is a power of two wide"),
        ({"num_heads": 64, "num_kv_heads": 2}, "do not fit into 16 rows"),
        ({"block_size": 48}, "16, 32, 64, 128, 256 tokens, not 48"),
        ({"BLOCK_M": 128}, "are wasted"),
        ({"T": 64, "PROGRAMS_PER_SM": 2}, "only decoding splits"),
        ({"T": 64, "BLOCK_M": 128, "TILE": 128, "PROGRAMS_PER_SM": 1}, "registers of a thread"),
        ({"arch": "sm_89", "TILE": 128, "num_stages": 5}, "bytes of shared memory"),
        ({}, None),
    ],
)
def test_refusals(changed: dict[str, int | str], reason: str | None) -> None:
    given = {"arch": "sm_90", "kv": "act", "T": 4, "block_size": 64, "head_dim": 128, "num_heads": 8, "num_kv_heads": 2} | {
        "BLOCK_M": 16, "TILE": 64, "PROGRAMS_PER_SM": 2, "USE_TMA": 0, "num_warps": 4, "num_stages": 3,
    } | changed  # fmt: skip
    cache = TensorMeta.contiguous(
        "bf16" if given["kv"] == "act" else "e4m3", 100, given["block_size"], given["num_kv_heads"], given["head_dim"]
    )
    rows = TensorMeta.contiguous("bf16", given["T"], given["num_heads"], given["head_dim"])
    scalars = {"scale": 0.1, "window": 0, "softcap": 0.0, "max_query_len": 1 if given["T"] == 4 else given["T"]}
    problem = Problem(f"gpu_paged_attention_{given['kv']}", {"q": rows, "k_cache": cache, "v_cache": cache}, scalars)
    point = {name: given[name] for name in TUNING.parameters(problem.symbol)}
    refused = TUNING.refusal(problem, point, Target.of(str(given["arch"]), 100))
    assert (refused is None) if reason is None else (refused is not None and reason in refused)
