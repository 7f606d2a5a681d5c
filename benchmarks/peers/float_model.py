"""The float weights that every engine quantizes or serves: a Hugging Face folder of safetensors, whatever the model came as."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from optimizer.importers import open_source
from optimizer.importers.gguf_config import hf_config
from optimizer.importers.gguf_file import GgufFile
from optimizer.importers.source import Source
from runtime.models import architecture, checkpoint_tensors

#: Issue-sized second shape: about 490 M parameters with SmolLM2's vocabulary. Nothing was tuned on it.
RANDOM_SHAPE = {
    "hidden_size": 1280,
    "intermediate_size": 3584,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
#: about 990 M parameters, of which a token meets 194 M
RANDOM_MIXTURE = {
    "hidden_size": 1024,
    "intermediate_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
}
#: what a GGUF is written for here -> the class of transformers
CLASSES = {"llama": "LlamaForCausalLM", "mixtral": "MixtralForCausalLM"}
#: standard deviation of every random matrix: hidden 1280 makes that logits of about 0.7 around zero
RANDOM_STD = 0.02
#: of the logarithm of the factors that `degridded` draws
DEGRID_STD = 0.5

Tensors = dict[str, torch.Tensor]


def export_float_model(model: Path, folder: Path, degrid_seed: int | None = None) -> None:
    """Write the model at `model` (a .gguf file or a Hugging Face folder) to `folder`: as stored, or fp32 if quantized.

    With `degrid_seed`, the function-preserving twin of `degridded`. ValueError for any other family.
    """
    source = open_source(model)
    config = _config(model)
    if config["model_type"] not in CLASSES:
        raise ValueError(
            f"peers are compared on model_type {' or '.join(CLASSES)}, whose GGUF is written here; got {config['model_type']!r}"
        )
    if config["model_type"] != "llama" and degrid_seed is not None:
        raise ValueError(f"only a llama has a de-gridded twin, got {config['model_type']!r}")
    tensors = _tensors(source)
    if degrid_seed is not None:
        tensors = degridded(tensors, config, degrid_seed)
    _write(folder, config, tensors, source)


def random_model(tokenizer: Path, folder: Path, shape: dict[str, int] | None = None, seed: int = 0) -> None:
    """Write random weights of `shape` (RANDOM_SHAPE), tied, with the vocabulary of the model at `tokenizer`.

    A Llama, or a Mixtral if the shape has experts.
    """
    source, shape = open_source(tokenizer), shape or RANDOM_SHAPE
    config: dict[str, Any] = {
        "model_type": "mixtral" if "num_local_experts" in shape else "llama",
        "vocab_size": source.architecture.vocab_size,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        **shape,
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        part.name: torch.randn(part.shape, generator=generator) * RANDOM_STD if len(part.shape) > 1 else torch.ones(part.shape)
        for parts in checkpoint_tensors(architecture(config)).values()
        for part in parts
    }
    _write(folder, config, tensors, source)


def degridded(tensors: Tensors, config: dict[str, Any], seed: int) -> Tensors:
    """The same function in weights that lie on no quantizer's grid, fp32.

    A checkpoint that was 4-bit once is nearly lossless under the scheme it came from, which would favour engines that use that
    scheme. Each linear's input channels are scaled by exp(N(0, 0.5)), and what makes those channels is divided by the same:
    gains of norms, rows of `up`, rows of V (one factor for all query heads that share them).
    """
    generator = torch.Generator().manual_seed(seed)
    twin = {name: tensor.float().clone() for name, tensor in tensors.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    def factors(size: int) -> torch.Tensor:
        return torch.exp(torch.randn(size, generator=generator) * DEGRID_STD)

    for i in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        for norm, readers in (
            ("input_layernorm", [f"{attention}.{x}_proj.weight" for x in "qkv"]),
            ("post_attention_layernorm", [f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"]),
        ):
            gain = twin[f"model.layers.{i}.{norm}.weight"]
            scale = factors(gain.numel())
            gain /= scale
            for reader in readers:
                twin[reader] *= scale
        up, down = twin[f"{mlp}.up_proj.weight"], twin[f"{mlp}.down_proj.weight"]
        scale = factors(len(up))
        up /= scale[:, None]
        down *= scale
        values, output = twin[f"{attention}.v_proj.weight"], twin[f"{attention}.o_proj.weight"]
        scale = factors(len(values))
        values /= scale[:, None]
        if (bias := twin.get(f"{attention}.v_proj.bias")) is not None:
            bias /= scale
        output *= scale.view(kv_heads, -1).repeat_interleave(heads // kv_heads, dim=0).flatten()
    return twin


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _config(model: Path) -> dict[str, Any]:
    return read_config(model) if model.is_dir() else hf_config(GgufFile.open(model))


def _tensors(source: Source) -> Tensors:
    def parts() -> Iterator[tuple[str, torch.Tensor]]:
        for joined in checkpoint_tensors(source.architecture).values():
            yield from ((part.name, source.checkpoint.read(part.name)) for part in joined)

    return dict(parts())


def _write(folder: Path, config: dict[str, Any], tensors: Tensors, source: Source) -> None:
    """The folder appears whole or not at all."""
    special = {key: source.generation_config.get(key) for key in ("bos_token", "eos_token") if key in source.generation_config}
    ids = {f"{key}_id": source.generation_config.get(f"{key}_id") for key in special}
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    rope = config.get("rope_parameters")
    config = {key: value for key, value in config.items() if value is not None and key != "quantization_config"} | {
        "architectures": [CLASSES[config["model_type"]]],
        "hidden_act": "silu",
        "torch_dtype": dtype,
        **ids,
    }
    if isinstance(rope, dict):
        # Readers older than transformers 5 look for the base at the top.
        config["rope_theta"] = rope["rope_theta"]
        config["rope_parameters"] = {"rope_type": "default"} | {k: v for k, v in rope.items() if k != "partial_rotary_factor"}
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("config.json", config),
        ("generation_config.json", ids),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special}),
    ):
        (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (partial / "tokenizer.json").write_text(source.tokenizer_json, encoding="utf-8")
    if source.chat_template:
        (partial / "chat_template.jinja").write_text(source.chat_template, encoding="utf-8")
    partial.replace(folder)
