"""MLA's reference functions, chained as a decoder chains them, against transformers' attention; refusals of its tiles."""

from __future__ import annotations

import mmap

import pytest
import torch
from transformers import DeepseekV2Config, DeepseekV3Config, PreTrainedConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from kernels import registry
from kernels.gpu.launch import Problem, TensorMeta
from kernels.gpu.target import Target
from kernels.head_matmul.gpu_reference import gpu_head_matmul
from kernels.interpreter import Interpreter
from kernels.mla_attention.gpu_reference import gpu_mla_attention
from kernels.mla_rope_and_cache.gpu_reference import gpu_mla_rope_and_cache
from tests.kernels.gpu import contract
from tests.kernels.gpu.far_rows import NO_RESERVE, check_far_rows

R, P, DN, DV, H, BLOCK_SIZE = 32, 16, 24, 20, 3, 16

_SIZES = {
    "hidden_size": 48,
    "num_attention_heads": H,
    "num_key_value_heads": H,
    "kv_lora_rank": R,
    "qk_rope_head_dim": P,
    "qk_nope_head_dim": DN,
    "v_head_dim": DV,
    "head_dim": P,
    "max_position_embeddings": 128,
    "attn_implementation": "eager",
}

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
    "original_max_position_embeddings": 32,
}


def _angles(config: PreTrainedConfig, length: int) -> tuple[torch.Tensor, torch.Tensor, object]:
    """Tables [length, P / 2], and what the model's own attention takes in their place."""
    positions = torch.arange(length)[None]
    if isinstance(config, DeepseekV3Config):
        cos, sin = DeepseekV3RotaryEmbedding(config)(torch.zeros(1), positions)
        return cos[0, :, : P // 2], sin[0, :, : P // 2], (cos, sin)
    turns = DeepseekV2RotaryEmbedding(config)(torch.zeros(1), positions)
    return turns[0].real.contiguous(), turns[0].imag.contiguous(), turns


class _Decoder:
    """One layer's attention over a paged cache, as the ops compute it."""

    def __init__(self, layer: torch.nn.Module, cos: torch.Tensor, sin: torch.Tensor) -> None:
        self._layer, self._cos, self._sin = layer, cos, sin
        projections = layer.kv_b_proj.weight.reshape(H, DN + DV, R)
        self._absorb, self._project = projections[:, :DN].transpose(1, 2), projections[:, DN:]
        self._cache = torch.full((9, BLOCK_SIZE, R + P), torch.nan)

    def step(self, x: torch.Tensor, lengths: list[int], new: list[int], tables: torch.Tensor) -> torch.Tensor:
        """Output for the last `new` of `lengths` tokens of each sequence, whose hidden states follow one another in x."""
        layer, num_tokens = self._layer, len(x)
        down = layer.q_proj(x) if layer.q_lora_rank is None else layer.q_b_proj(layer.q_a_layernorm(layer.q_a_proj(x)))
        q, kv = down.reshape(num_tokens, H, DN + P), layer.kv_a_proj_with_mqa(x)
        kv[:, :R] = layer.kv_a_layernorm(kv[:, :R])
        positions = torch.cat([torch.arange(length - n, length) for length, n in zip(lengths, new, strict=True)])
        rows = torch.repeat_interleave(torch.arange(len(new)), torch.tensor(new))
        slots = tables[rows, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
        q_latent = torch.full((num_tokens, H, R + P), torch.nan)
        gpu_mla_rope_and_cache(q, kv, self._cos, self._sin, positions.int(), slots, q_latent, self._cache)
        gpu_head_matmul(q, self._absorb, q_latent)
        attended = torch.full((num_tokens, H, R), torch.nan)
        cu_seqlens = torch.tensor([0, *new]).cumsum(0).int()
        gpu_mla_attention(
            q_latent, self._cache, tables, torch.tensor(lengths).int(), cu_seqlens, attended, layer.scaling, max(new)
        )
        out = torch.empty(num_tokens, H, DV)
        gpu_head_matmul(attended, self._project, out)
        return layer.o_proj(out.flatten(1))


@pytest.mark.parametrize("yarn", [False, True], ids=["default", "yarn"])
@pytest.mark.parametrize("version", [2, 3])
@torch.inference_mode()
def test_chained_ops_are_the_models_attention(version: int, yarn: bool) -> None:
    config_type, layer_type = (
        (DeepseekV2Config, DeepseekV2Attention) if version == 2 else (DeepseekV3Config, DeepseekV3Attention)
    )
    rope = {"rope_parameters": _YARN} if yarn else {}
    config = config_type(**_SIZES, q_lora_rank=None if version == 2 else 40, **rope)
    torch.manual_seed(0)
    layer = layer_type(config, 0).eval()
    for parameter in layer.parameters():
        parameter.normal_(std=0.2)
    lengths = [37, 21]
    cos, sin, position_embeddings = _angles(config, max(lengths))
    hidden = [torch.randn(length, 48) for length in lengths]
    expected = []
    for x in hidden:
        mask = torch.full((len(x), len(x)), -torch.inf).triu(1)[None, None]
        embeddings = tuple(e[:, : len(x)] for e in position_embeddings) if version == 3 else position_embeddings[:, : len(x)]
        expected.append(layer(x[None], attention_mask=mask, position_embeddings=embeddings)[0][0])

    decoder = _Decoder(layer, cos, sin)
    tables = torch.tensor([[4, 7, 1], [0, 8, 0]], dtype=torch.int32)
    # A chunk of each, then a mixed step, then both decode.
    got: list[list[torch.Tensor]] = [[], []]
    past = [0, 0]
    for new in ([20, 9], [16, 11], [1, 1]):
        past = [before + n for before, n in zip(past, new, strict=True)]
        chunks = [x[length - n : length] for x, length, n in zip(hidden, past, new, strict=True)]
        for parts, part in zip(got, decoder.step(torch.cat(chunks), past, new, tables).split(new), strict=True):
            parts.append(part)
    for parts, true in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.cat(parts), true, rtol=1e-3, atol=1e-4)


def _problem(rank: int, rotary: int, heads: int = 128, max_query_len: int = 1) -> Problem:
    width, contiguous = rank + rotary, TensorMeta.contiguous
    tensors = {
        "q": contiguous("bf16", 4, heads, width),
        "cache": contiguous("bf16", 100, 64, width),
        "block_tables": contiguous("i32", 4, 64),
        "seq_lens": contiguous("i32", 4),
        "cu_seqlens_q": contiguous("i32", 5),
        "out": contiguous("bf16", 4, heads, rank),
    }
    return Problem("gpu_mla_attention", tensors, {"scale": 0.1, "max_query_len": max_query_len})


@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950"])
@pytest.mark.parametrize("heads", [16, 128])
def test_deepseeks_latents_have_a_tile_everywhere(arch: str, heads: int) -> None:
    target, problem = Target.of(arch, 132), _problem(512, 64, heads)
    tuning = registry.gpu_tuning("mla_attention")
    assert tuning.checked(problem, tuning.default(problem, target), target)


@pytest.mark.parametrize(
    ("problem", "change", "reason"),
    [
        (_problem(512, 64), {"num_warps": 4}, "an accumulator of 64 x 512 takes 256 registers per thread"),
        (_problem(512, 64), {"block_n": 128}, "of 232448 of shared memory"),
        (_problem(512, 64, max_query_len=2), {"num_splits": 2}, "only a decoding sequence is split"),
        (_problem(480, 64), {}, "R must be a power of two of at least 16, got 480"),
    ],
)
def test_refusals_give_the_reason(problem: Problem, change: dict[str, int], reason: str) -> None:
    point = {"block_m": 64, "block_n": 32, "num_splits": 1, "num_warps": 8, "num_stages": 2, **change}
    refusal = registry.gpu_tuning("mla_attention").refusal(problem, point, Target.of("sm_90", 132))
    assert refusal is not None and reason in refusal


def test_rows_may_lie_past_2_to_the_31() -> None:
    q = torch.arange(3 * 2 * 48.0).remainder(7).sub(3).half().view(3, 2, 48)
    decode = {
        "cache": torch.arange(4 * 16 * 48.0).remainder(5).sub(2).half().view(4, 16, 48),
        "block_tables": torch.tensor([[3], [1], [2]], dtype=torch.int32),
        "seq_lens": torch.tensor([5, 16, 1], dtype=torch.int32),
        "cu_seqlens_q": torch.arange(4, dtype=torch.int32),
        "scale": 0.1,
        "max_query_len": 1,
    }
    check_far_rows("gpu_mla_attention", {**decode, "q": q, "out": torch.zeros(3, 2, 32).half()}, 3)
    weight = torch.arange(2 * 8 * 16.0).remainder(5).half().view(2, 8, 16)
    check_far_rows("gpu_head_matmul", {"x": q, "weight": weight, "out": torch.zeros(3, 2, 8).half()}, 3)
    rotation = {
        "cos": torch.ones(4, 8),
        "sin": torch.full((4, 8), 0.5),
        "positions": torch.arange(3, dtype=torch.int32),
        "slot_mapping": torch.tensor([3, 40, -1]),
    }
    written = {"q_latent": torch.zeros(3, 2, 48).half(), "cache": torch.zeros(4, 16, 48).half()}
    check_far_rows("gpu_mla_rope_and_cache", {"q": q, "kv": q[:, 0].contiguous(), **rotation, **written}, 3)


@pytest.mark.parametrize("symbol", ["gpu_mla_attention", "gpu_mla_rope_and_cache"])
def test_blocks_may_lie_past_2_to_the_31(symbol: str) -> None:
    """The cache is 2^31 elements and a block; memory that nothing touches costs nothing."""
    block = 64 * 48
    num_blocks = 2**31 // block + 2
    memory = mmap.mmap(-1, num_blocks * block * 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    cache = torch.frombuffer(memory, dtype=torch.float16).view(num_blocks, 64, 48)
    row = torch.arange(48.0).remainder(7).sub(3).half()
    one = torch.ones(1, dtype=torch.int32)
    if symbol == "gpu_mla_attention":
        cache[-1, 0] = row
        arguments: dict[str, object] = {
            "q": row.view(1, 1, 48),
            "cache": cache,
            "block_tables": torch.tensor([[num_blocks - 1]], dtype=torch.int32),
            "seq_lens": one,
            "cu_seqlens_q": torch.tensor([0, 1], dtype=torch.int32),
            "out": torch.zeros(1, 1, 32).half(),
            "scale": 1.0,
            "max_query_len": 1,
        }
    else:
        arguments = {
            "q": row.view(1, 1, 48),
            "kv": row.view(1, 48),
            "cos": torch.ones(2, 8),
            "sin": torch.zeros(2, 8),
            "positions": one,
            "slot_mapping": torch.tensor([num_blocks * 64 - 1]),
            "q_latent": torch.zeros(1, 1, 48).half(),
            "cache": cache,
        }
    call = contract.problem(registry.spec(symbol).typed("f16"), arguments)
    Interpreter().run(registry.plan_call(call, contract.TARGET), arguments)
    # Attention to one token is its latent, and an angle of 0 moves nothing.
    got = arguments["out"][0, 0] if symbol == "gpu_mla_attention" else cache[-1, -1, :32]
    assert torch.equal(got, row[:32])
