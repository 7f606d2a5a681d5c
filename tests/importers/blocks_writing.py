"""gpt-oss checkpoints whose experts are blocks of mxfp4, as OpenAI publishes them, and the values that transformers reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.importers.prequantized_writing import change_config
from tests.importers.random_models import SIZES, random_model, save_folder

CONFIG = GptOssConfig(
    **SIZES | {"hidden_size": 64, "intermediate_size": 96}, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
    sliding_window=24,
)  # fmt: skip
#: as openai/gpt-oss-20b's config.json says it
QUANTIZATION = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
}


@dataclass
class Blocks:
    """A folder, the model that has its values, and what the file has of each tensor of experts."""

    folder: Path
    model: PreTrainedModel
    blocks: dict[str, torch.Tensor]
    scales: dict[str, torch.Tensor]


def write_blocks(folder: Path, model: PreTrainedModel | None = None) -> Blocks:
    """`model` with random codes in the place of its experts, under scales of three sizes at which logits are moderate."""
    written = Blocks(folder, model or random_model(CONFIG), {}, {})
    generator = torch.Generator().manual_seed(0)
    save_folder(written.model, folder)
    path = folder / "model.safetensors"
    stored = load_file(path)
    with torch.no_grad():
        for name, parameter in written.model.named_parameters():
            if name.endswith(("gate_up_proj", "down_proj")):
                experts, width, rows = parameter.shape
                blocks = torch.randint(0, 256, (experts, rows, width // 32, 16), dtype=torch.uint8, generator=generator)
                scales = torch.randint(121, 124, blocks.shape[:3], dtype=torch.uint8, generator=generator)
                parameter.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
                del stored[name]
                stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
                written.blocks[name], written.scales[name] = blocks, scales
    save_file(stored, path, {"format": "pt"})
    change_config(folder, quantization_config=QUANTIZATION)
    return written
