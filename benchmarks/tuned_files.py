"""vLLM's tuned tile files, read: which tile won on which GPU for which problem.

The files come inside vLLM's wheels (`vllm/model_executor/layers/fused_moe/configs` and
`.../quantization/utils/configs`). A name gives experts, N, K, device, dtype and scale block; a file maps a number of tokens
to the winner. Names of expert files lack the hidden size and the experts per token: they are inferred from the
model that has such experts, see `MODELS`; where none has, 4096 and 8 (2 below 32 experts) are assumed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optimizer.cost.gpu.problem import Element, MatmulProblem, Tile

#: (experts, intermediate size, hidden size, experts per token), from the configurations of public models
MODELS = (
    (8, 14336, 4096, 2),
    (8, 16384, 6144, 2),
    (16, 10752, 6144, 4),
    (16, 14336, 4096, 2),
    (16, 24576, 8192, 2),
    (16, 6400, 4096, 2),
    (16, 8192, 5120, 1),
    (32, 2880, 2880, 4),
    (32, 9216, 6144, 2),
    (60, 1408, 2048, 4),
    (64, 1024, 2048, 8),
    (64, 1408, 2048, 6),
    (64, 1536, 2560, 6),
    (64, 2560, 3584, 8),
    (64, 3072, 4096, 8),
    (64, 3584, 8192, 8),
    (72, 1536, 2560, 6),
    (128, 704, 2816, 8),
    (128, 768, 2048, 8),
    (128, 1408, 4096, 8),
    (128, 1536, 4096, 8),
    (128, 1856, 2688, 6),
    (128, 2880, 2880, 4),
    (128, 4864, 7168, 2),
    (128, 8192, 5120, 1),
    (160, 1536, 5120, 8),
    (160, 2560, 6144, 8),
    (256, 512, 2048, 8),
    (256, 1536, 3072, 8),
    (256, 2048, 7168, 8),
    (384, 2048, 7168, 8),
    (512, 512, 2048, 10),
    (512, 1024, 4096, 10),
    (512, 2048, 6144, 12),
    (512, 2688, 4096, 22),
)
#: part of a device's name in a file -> the device that stands for it, first match
DEVICES = (
    ("H100", "h100"),
    ("H800", "h100"),
    ("H200", "h200"),
    ("H20", "h20"),
    ("A100", "a100"),
    ("A800", "a100"),
    ("B200", "b200"),
    ("B300", "b200"),
    ("L40S", "l40s"),
    ("4090", "rtx4090"),
    ("RTX_PRO_6000", "rtxpro6000"),
    ("MI300X", "mi300x"),
    ("MI325", "mi325x"),
    ("MI355", "mi355x"),
)
_ELEMENTS: dict[str, tuple[Element, Element]] = {
    "bf16": ("bf16", "bf16"),
    "fp8_w8a8": ("fp8", "fp8"),
    "float8": ("fp8", "fp8"),
    "int8_w8a8": ("int8", "int8"),
    "int8_w8a16": ("bf16", "int8"),
}


@dataclass(frozen=True)
class Tuned:
    """One winner. `problems`: a dense matmul, or the two grouped ones of an expert layer, which share the tile."""

    file: str
    device: str
    family: str
    problems: tuple[MatmulProblem, ...]
    winner: Tile


def read_tuned(folder: Path) -> list[Tuned]:
    """Every winner under `folder` that is a plain tile on a device we know."""
    return [tuned for path in sorted(folder.rglob("*device_name=*.json")) for tuned in _read(path)]


def _read(path: Path) -> Iterator[Tuned]:
    name = path.stem
    device = next((ours for theirs, ours in DEVICES if theirs in _field(name, "device_name", "")), None)
    elements = _ELEMENTS.get(_field(name, "dtype", "bf16"))
    shape = {key: int(value) for key, value in re.findall(r"\b([ENK])=(\d+)", name)}
    if device is None or elements is None or (shape.keys() != {"E", "N"} and shape.keys() != {"N", "K"}):
        return
    scaled = "block_shape" in name
    kind = "moe" if "E" in shape else "dense"
    family = f"{kind} {_field(name, 'dtype', 'bf16')}{' block' if scaled else ''}"
    for tokens, entry in json.loads(path.read_text()).items():
        if not tokens.isdigit() or "BLOCK_SIZE_M" not in entry or entry.get("num_ctas", 1) != 1:
            continue
        winner = Tile(
            entry["BLOCK_SIZE_M"],
            entry["BLOCK_SIZE_N"],
            entry["BLOCK_SIZE_K"],
            entry["num_warps"],
            # AMD's dense files leave it to the compiler, whose default there is 2.
            entry.get("num_stages", 2),
        )
        yield Tuned(f"{kind}/{name}", device, family, _problems(int(tokens), shape, elements, scaled), winner)


def _problems(tokens: int, shape: dict[str, int], elements: tuple[Element, Element], scaled: bool) -> tuple[MatmulProblem, ...]:
    a, b = elements
    if "K" in shape:
        return (MatmulProblem(tokens, shape["N"], shape["K"], a, b, block_scaled=scaled),)
    experts, width = shape["E"], shape["N"]
    hidden, top_k = _model(experts, width)
    top_k = min(top_k, experts)
    # The tuner times a whole layer: up and gate together, then down, which has one row per token and expert.
    up = MatmulProblem(tokens, 2 * width, hidden, a, b, experts, top_k, scaled)
    down = MatmulProblem(tokens, hidden, width, a, b, experts, top_k, scaled)
    return up, down


def _model(experts: int, width: int) -> tuple[int, int]:
    """(hidden size, experts per token) of the model that is cut the least to have such experts."""
    cuts = [
        (model_experts > experts, model_experts // experts * (model_width // width), hidden, top_k)
        for model_experts, model_width, hidden, top_k in MODELS
        if model_experts % experts == 0 and model_width % width == 0
        if model_experts // experts in (1, 2, 4, 8, 16, 32) and model_width // width in (1, 2, 4, 8, 16)
    ]
    if not cuts:
        return 4096, 8 if experts >= 32 else 2
    _, _, hidden, top_k = min(cuts)
    return hidden, top_k


def _field(name: str, key: str, default: str) -> str:
    found = re.search(rf"{key}=([^,]+)", name)
    return found.group(1) if found else default
