"""Calls that stand for those of real models: what kernels are inspected on, and what shipped configurations are checked on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kernels.gpu.launch import Problem, TensorMeta
from kernels.moe_matmul.gpu_tuning import default_block_m
from kernels.moe_route.launch import max_blocks
from kernels.registry import spec
from kernels.spec import axis_extent

#: One sequence that decodes, a few, a batch, and a chunk of a prompt.
TOKENS = (1, 16, 64, 2048)
#: From here on tokens are those of one prompt.
_PROMPT = 256
_GROUP_SIZE, _KV_BLOCK, _KV_BLOCKS, _MAX_BLOCKS = 64, 64, 1024, 64


@dataclass(frozen=True)
class ModelShape:
    """Widths of a model: `matrices` are (N, K) of its linear layers by name."""

    hidden: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int

    @property
    def matrices(self) -> Mapping[str, tuple[int, int]]:
        rows = (self.num_q_heads + 2 * self.num_kv_heads) * self.head_dim
        return {
            "qkv": (rows, self.hidden),
            "o": (self.hidden, self.num_q_heads * self.head_dim),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }


@dataclass(frozen=True)
class LatentShape:
    """Widths of a model with multi-head latent attention and experts."""

    hidden: int
    num_heads: int
    rank: int
    rotary: int
    nope: int
    value: int
    num_experts: int
    top_k: int
    expert_width: int


#: As their configurations on the Hugging Face hub state them.
MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {
        "smollm2-135m": ModelShape(576, 9, 3, 64, 1536, 49152),
        "llama-3.1-8b": ModelShape(4096, 32, 8, 128, 14336, 128256),
    }
)
LATENT_MODELS: Mapping[str, LatentShape] = MappingProxyType(
    {"deepseek-v2-lite": LatentShape(2048, 16, 512, 64, 128, 128, 64, 6, 1408)}
)


@dataclass(frozen=True)
class Representative:
    """A problem and what it is: `llama-3.1-8b qkv x16`."""

    name: str
    problem: Problem


def representatives(symbol: str, tokens: Sequence[int] = TOKENS, act: str = "bf16") -> Iterator[Representative]:
    """Calls of an entry point in each model that has it, for each number of tokens (rows of logits, sequences)."""
    for count in tokens:
        for name, sizes in _sizes(symbol, count):
            scalars = {scalar.name: _scalar(scalar.name, sizes, count) for scalar in spec(symbol).scalars}
            yield Representative(f"{name} x{count}", call_of(symbol, sizes, scalars, act))


def call_of(symbol: str, sizes: Mapping[str, int], scalars: Mapping[str, float | int], act: str = "bf16") -> Problem:
    """The call of an entry point with contiguous tensors of these extents, what is optional left out."""
    tensors = {
        tensor.name: TensorMeta.contiguous(tensor.dtype, *(axis_extent(axis, sizes) for axis in tensor.axes))
        for tensor in spec(symbol).typed(act).tensors
        if not tensor.optional
    }
    return Problem(symbol, tensors, scalars)


def _sizes(symbol: str, count: int) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Extents of every axis that an entry point may have, by model, and by matrix where it multiplies by one."""
    op = spec(symbol).op
    step = {"T": count, "R": count, "S": 1 if count >= _PROMPT else count, "G": 1, "B": 16}
    step |= {"num_blocks": _KV_BLOCKS, "block_size": _KV_BLOCK, "max_blocks": _MAX_BLOCKS}
    if op.startswith(("moe", "mla", "head")):
        for name, latent in LATENT_MODELS.items():
            yield from ((f"{name}{part}", step | sizes) for part, sizes in _latent_sizes(op, latent, count))
        return
    for name, model in MODELS.items():
        if op in ("quant_matmul", "scaled_matmul"):
            for part, (n, k) in model.matrices.items():
                yield f"{name} {part}", step | {"N": n, "K": k, "groups": k // _GROUP_SIZE}
            continue
        widths = {"D": model.hidden, "H": model.hidden, "K": model.hidden, "F": model.intermediate, "V": model.vocab_size}
        widths |= {"tiles": model.vocab_size // 16, "groups": model.hidden // _GROUP_SIZE, "P": 8192}
        if op in ("paged_attention", "rope_and_cache"):
            widths |= {"D": model.head_dim, "Hq": model.num_q_heads, "Hkv": model.num_kv_heads}
        yield name, step | widths


def _latent_sizes(op: str, model: LatentShape, count: int) -> Iterator[tuple[str, dict[str, int]]]:
    latent = {"L": model.rank + model.rotary, "R": model.rank, "Q": model.nope + model.rotary, "H": model.num_heads}
    if op == "head_matmul":
        for part, n, k in (("absorb", model.rank, model.nope), ("project", model.value, model.rank)):
            yield f" {part}", {"H": model.num_heads, "N": n, "K": k, "x_width": k, "out_width": n}
    elif op.startswith("mla"):
        yield "", latent | {"half": model.rotary // 2, "max_positions": 8192}
    else:
        pairs, experts = count * model.top_k, model.num_experts
        block_m = default_block_m(pairs, experts)
        routed = {"E": experts, "top_k": model.top_k, "block_m": block_m, "num_blocks": max_blocks(pairs, experts, block_m)}
        if op == "moe_matmul":
            for part, rows, n, k in (
                ("gate_up", 1, 2 * model.expert_width, model.hidden),
                ("down", model.top_k, model.hidden, model.expert_width),
            ):
                yield f" {part}", routed | {"J": rows, "N": n, "K": k, "groups": k // _GROUP_SIZE}
        else:
            yield "", routed | {"K": model.hidden}


def _scalar(name: str, sizes: Mapping[str, int], count: int) -> float | int:
    values: dict[str, float | int] = {
        "eps": 1e-5,
        "scale": sizes.get("D", sizes.get("L", 64)) ** -0.5,
        "window": 0,
        "softcap": 0.0,
        "limit": 7.0,
        "slope": 1.702,
        "factor": 1.0,
        "max_query_len": count if count >= _PROMPT else 1,
        "renormalize": 1,
        "num_groups": 1,
        "topk_groups": 1,
        "routed_scale": 1.0,
        "num_experts": sizes.get("E", 0),
    }
    return values[name]
