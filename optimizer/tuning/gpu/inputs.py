"""Tensors to measure a call on: random where values do not matter, in range where they are indices."""

from __future__ import annotations

import torch

from kernels.gpu.launch import Problem, TensorMeta
from kernels.gpu.tensors import TORCH_DTYPES

_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def sample_tensors(problem: Problem, context_tokens: int, device: torch.device | str) -> dict[str, torch.Tensor]:
    """The tensors of a call. Decoding sequences have `context_tokens`, prompts are whole, tokens are spread over experts."""
    generator = torch.Generator().manual_seed(0)
    made = {name: _values(name, meta, generator) for name, meta in problem.tensors.items()}
    made |= _sequences(problem, context_tokens) | _routed(problem) | _indices(problem, generator)
    return {name: _placed(made[name], meta, device) for name, meta in problem.tensors.items()}


def _values(name: str, meta: TensorMeta, generator: torch.Generator) -> torch.Tensor:
    dtype = TORCH_DTYPES[meta.dtype]
    if meta.dtype in ("f32", "f16", "bf16"):
        low, high = (0.01, 0.02) if "scale" in name else (-1.0, 1.0)
        return torch.empty(meta.shape).uniform_(low, high, generator=generator).to(dtype)
    if meta.dtype == "e4m3":
        return torch.randint(0, 0x48, meta.shape, dtype=torch.uint8, generator=generator).view(dtype)
    if name == "zeros":
        return torch.full(meta.shape, 8 << 16 | 8, dtype=torch.int32).view(dtype)
    if name == "codes":
        size = dtype.itemsize
        words = torch.randint(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1), meta.shape, generator=generator)
        return words.to(_BYTES[size]).view(dtype)
    return torch.zeros(meta.shape, dtype=dtype)


def _sequences(problem: Problem, context_tokens: int) -> dict[str, torch.Tensor]:
    """Block tables, lengths and first tokens of sequences, longest queries first."""
    if "seq_lens" not in problem:
        return {}
    num_tokens, (num_seqs, max_blocks) = problem["q"].shape[0], problem["block_tables"].shape
    num_blocks, block_size = problem["k_cache" if "k_cache" in problem else "cache"].shape[:2]
    longest = max(1, int(problem.scalars["max_query_len"]))
    first = torch.clamp(torch.arange(num_seqs + 1) * longest, max=num_tokens)
    new = first.diff()
    context = min(context_tokens, max_blocks * block_size)
    lengths = torch.where(new > 0, torch.clamp(new, min=context if longest == 1 else 0), 0)
    tables = torch.arange(num_seqs * max_blocks).reshape(num_seqs, max_blocks) % num_blocks
    return {"seq_lens": lengths, "cu_seqlens_q": first, "block_tables": tables}


def _routed(problem: Problem) -> dict[str, torch.Tensor]:
    """Pairs of tokens and experts in turn, sorted by expert, each expert's padded to whole tiles."""
    if "sorted_ids" not in problem or "topk_ids" in problem:
        return {}
    num_tokens, top_k, _ = problem["out"].shape
    num_blocks, block_m = problem["sorted_ids"].shape
    num_experts, num_pairs = problem["weight" if "weight" in problem else "codes"].shape[0], num_tokens * top_k
    sorted_ids, experts = torch.full((num_blocks * block_m,), num_pairs), torch.zeros(num_blocks, dtype=torch.int64)
    used = 0
    for expert in range(min(num_experts, num_pairs)):
        pairs = torch.arange(expert, num_pairs, num_experts)
        count = -(-len(pairs) // block_m)
        sorted_ids[used * block_m : used * block_m + len(pairs)] = pairs
        experts[used : used + count] = expert
        used += count
    ids = sorted_ids.reshape(num_blocks, block_m)
    return {"sorted_ids": ids, "expert_ids": experts, "num_padded": torch.tensor([used * block_m])}


def _indices(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rows, tokens, positions and slots that exist."""
    made: dict[str, torch.Tensor] = {}

    def drawn(name: str, limit: int) -> None:
        made[name] = torch.randint(0, max(1, limit), problem[name].shape, generator=generator)

    if "token_ids" in problem and "out" in problem:
        table = problem["weight" if "weight" in problem else "codes"]
        drawn("token_ids", table.shape[0] * (16 if table.dtype == "u32" else 1))
    if "rows" in problem:
        drawn("rows", problem["x"].shape[0])
    if "positions" in problem and "cos" in problem:
        drawn("positions", problem["cos"].shape[0])
    if "topk_ids" in problem and "num_experts" in problem.scalars:
        drawn("topk_ids", int(problem.scalars["num_experts"]))
    for name in ("slots", "slot_mapping"):
        if name in problem:
            made[name] = torch.arange(problem[name].shape[0])
    return made


def _placed(values: torch.Tensor, meta: TensorMeta, device: torch.device | str) -> torch.Tensor:
    placed = torch.empty_strided(meta.shape, meta.strides, dtype=TORCH_DTYPES[meta.dtype], device=device)
    return placed.copy_(values.reshape(meta.shape).to(placed.dtype))
