"""Random quantized checkpoints, packed element by element as their formats are published, or by compressed-tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from compressed_tensors.compressors.model_compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStrategy,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, MixtralConfig, PreTrainedModel

from tests.importers.random_models import random_model, save_folder

#: one layer whose joined projections all have whole blocks of 128
CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=128,
    max_position_embeddings=64,
)


#: the same with experts, of which a token goes to two
MIXTURE = MixtralConfig(
    vocab_size=96,
    hidden_size=128,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=128,
    max_position_embeddings=64,
    num_local_experts=3,
)


def linear_shapes(config: LlamaConfig | MixtralConfig = CONFIG) -> dict[str, tuple[int, int]]:
    """Every linear layer of the decoder but the router -> (N, K)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = {
        **{f"self_attn.{x}_proj": (rows, hidden) for x, rows in (("q", q), ("k", kv), ("v", kv))},
        "self_attn.o_proj": (hidden, q),
    }
    gated = ((inner, hidden), (inner, hidden), (hidden, inner))
    if isinstance(config, MixtralConfig):
        experts = [f"block_sparse_moe.experts.{expert}" for expert in range(config.num_local_experts)]
        shapes |= {f"{each}.{name}": shape for each in experts for name, shape in zip(("w1", "w3", "w2"), gated, strict=True)}
    else:
        shapes |= {f"mlp.{name}_proj": shape for name, shape in zip(("gate", "up", "down"), gated, strict=True)}
    return {f"model.layers.{i}.{name}": shape for i in range(config.num_hidden_layers) for name, shape in shapes.items()}


@dataclass
class Written:
    """A folder and what is in it: for each module codes [N, K], scales and zero points as drawn, and its values in fp32."""

    folder: Path
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    scales: dict[str, np.ndarray] = field(default_factory=dict)
    zeros: dict[str, np.ndarray] = field(default_factory=dict)

    def state(self) -> dict[str, torch.Tensor]:
        """The state dict that the folder amounts to."""
        stored = load_file(self.folder / "model.safetensors")
        floats = {name: tensor for name, tensor in stored.items() if name.rpartition(".")[0] not in self.values}
        return floats | {f"{name}.weight": tensor for name, tensor in self.values.items()}


def write_folder(
    folder: Path, config: LlamaConfig | MixtralConfig, tensors: dict[str, torch.Tensor], quantization: dict[str, Any] | None
) -> None:
    """A random float model in which `tensors` stand for the weights of their modules."""
    save_folder(random_model(config), folder)
    state = load_file(folder / "model.safetensors")
    modules = {name.rpartition(".")[0] for name in tensors}
    state = {name: tensor for name, tensor in state.items() if name.removesuffix(".weight") not in modules}
    save_file({name: t.contiguous() for name, t in (state | tensors).items()}, folder / "model.safetensors")
    change_config(folder, quantization_config=quantization)


def change_config(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


def change_quantization(folder: Path, **changes: object) -> None:
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    change_config(folder, quantization_config=quantization | changes)


def change_tensor(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Replaces, adds, or (None) removes a tensor."""
    tensors = load_file(folder / "model.safetensors") | {name: tensor}
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "model.safetensors")


def pack(codes: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """u8 [A, B] -> i32 [A, B bits / 32]: code `order[i]` of a word's in its i-th lowest place."""
    per_word = 32 // bits
    order = order or tuple(range(per_word))
    words = np.zeros((codes.shape[0], codes.shape[1] // per_word), np.uint64)
    for word in range(words.shape[1]):
        for place, code in enumerate(order):
            words[:, word] += codes[:, word * per_word + code].astype(np.uint64) << np.uint64(bits * place)
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def write_gptq(
    folder: Path,
    *,
    bits: int = 4,
    group_size: int = 32,
    version: int = 1,
    sym: bool = True,
    desc_act: bool = False,
    config: LlamaConfig | MixtralConfig = CONFIG,
    scales_dtype: torch.dtype = torch.float16,
) -> Written:
    rng, written, tensors = np.random.default_rng(bits + group_size), Written(folder), {}
    for name, (n, k) in linear_shapes(config).items():
        columns = k if group_size == -1 else group_size
        codes = rng.integers(0, 1 << bits, (n, k), np.uint8)
        zeros = rng.integers(0, 1 << bits, (n, k // columns), np.uint8)
        if sym:
            zeros[:] = 1 << bits - 1
        scales = torch.from_numpy(rng.uniform(1e-3, 1e-1, zeros.shape)).to(scales_dtype)
        groups = np.arange(k) // columns
        if desc_act:
            rng.shuffle(groups)
        stored_zeros = (zeros.astype(np.int64) - (version == 1)) % (1 << bits)
        tensors |= {
            f"{name}.qweight": pack(codes, bits).T.contiguous(),
            f"{name}.qzeros": pack(stored_zeros.T.astype(np.uint8), bits),
            f"{name}.scales": scales.T.contiguous(),
            f"{name}.g_idx": torch.from_numpy(groups.astype(np.int32)),
        }
        wide = scales.float().numpy()
        centred = codes.astype(np.float32) - zeros[:, groups].astype(np.float32)
        written.values[name] = torch.from_numpy(wide[:, groups] * centred)
        written.codes[name], written.scales[name], written.zeros[name] = codes, wide, zeros
    quantization = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": sym, "desc_act": desc_act}
    quantization |= {"checkpoint_format": "gptq" if version == 1 else "gptq_v2"}
    write_folder(folder, config, tensors, quantization)
    return written


def write_awq(folder: Path, *, group_size: int = 32) -> Written:
    rng, written, tensors = np.random.default_rng(group_size), Written(folder), {}
    for name, (n, k) in linear_shapes().items():
        codes = rng.integers(0, 16, (n, k), np.uint8)
        zeros = rng.integers(0, 16, (n, k // group_size), np.uint8)
        scales = rng.uniform(1e-3, 1e-1, zeros.shape).astype(np.float16)
        published = (0, 2, 4, 6, 1, 3, 5, 7)
        tensors |= {
            f"{name}.qweight": pack(codes.T, 4, published),
            f"{name}.qzeros": pack(zeros.T, 4, published),
            f"{name}.scales": torch.from_numpy(scales.T.copy()),
        }
        wide, far = scales.astype(np.float32), np.repeat(zeros, group_size, axis=1).astype(np.float32)
        written.values[name] = torch.from_numpy(np.repeat(wide, group_size, axis=1) * (codes.astype(np.float32) - far))
        written.codes[name], written.scales[name], written.zeros[name] = codes, wide, zeros
    write_folder(
        folder,
        CONFIG,
        tensors,
        {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": "GEMM", "zero_point": True},
    )
    return written


def write_fp8(folder: Path, granularity: str, *, suffix: str = "weight_scale", config: LlamaConfig = CONFIG) -> Written:
    """`granularity` is tensor, channel, or block."""
    rng, written, tensors = np.random.default_rng(3), Written(folder), {}
    for name, (n, k) in linear_shapes(config).items():
        codes = rng.normal(0, 60, (n, k)).astype(ml_dtypes.float8_e4m3fn)
        shape = {"tensor": (), "channel": (n, 1), "block": (-(-n // 128), -(-k // 128))}[granularity]
        scales = rng.uniform(1e-4, 1e-2, shape).astype(np.float32)
        spread = np.empty((n, k), np.float32)
        for row in range(n):
            for column in range(0, k, 128):
                one = scales if granularity == "tensor" else scales[row, 0] if granularity == "channel" else None
                spread[row, column : column + 128] = scales[row // 128, column // 128] if one is None else one
        tensors |= {
            f"{name}.weight": torch.from_numpy(codes.view(np.uint8)).view(torch.float8_e4m3fn),
            f"{name}.{suffix}": torch.from_numpy(np.asarray(scales)),
            f"{name}.input_scale": torch.tensor(0.5),
        }
        written.values[name] = torch.from_numpy(codes.astype(np.float32) * spread)
        written.codes[name], written.scales[name] = codes.view(np.uint8), scales
    quantization: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    if granularity == "block":
        quantization["weight_block_size"] = [128, 128]
    write_folder(folder, config, tensors, quantization)
    return written


def write_modelopt(folder: Path) -> Written:
    """As ModelOpt exports fp8: its config in a file of its own, and scales of the KV cache."""
    written = write_fp8(folder, "tensor")
    change_config(folder, quantization_config=None)
    quantization = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": quantization}))
    for kind in "kv":
        change_tensor(folder, f"model.layers.0.self_attn.{kind}_proj.{kind}_scale", torch.tensor(1.0))
    return written


def write_modelopt_nvfp4(folder: Path) -> Written:
    """As ModelOpt exports nvfp4: pairs of codes as `weight`, and a scale of each tensor that multiplies."""
    rng, written, tensors = np.random.default_rng(4), Written(folder), {}
    for name, (n, k) in linear_shapes(CONFIG).items():
        codes = rng.integers(0, 16, (n, k)).astype(np.uint8)
        scales = np.abs(rng.normal(0, 60, (n, k // 16))).astype(ml_dtypes.float8_e4m3fn)
        scales[:, 0] = np.float32(2.0**-9)
        scale = np.float32(rng.uniform(1e-5, 1e-3))
        pairs = codes[:, 0::2] | codes[:, 1::2] << 4
        tensors |= {
            f"{name}.weight": torch.from_numpy(pairs),
            f"{name}.weight_scale": torch.from_numpy(scales.view(np.uint8)).view(torch.float8_e4m3fn),
            f"{name}.weight_scale_2": torch.tensor(scale),
            f"{name}.input_scale": torch.tensor(0.5),
        }
        numbers = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
        spread = np.repeat(scales.astype(np.float32), 16, axis=1)
        written.values[name] = torch.from_numpy(numbers * spread * scale)
        written.codes[name], written.scales[name] = pairs, scales.view(np.uint8)
    write_folder(folder, CONFIG, tensors, None)
    quantization = {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": quantization}))
    return written


def write_compressed_tensors(
    folder: Path,
    weights: QuantizationArgs,
    *,
    form: str | None = None,
    activations: QuantizationArgs | None = None,
    dtype: torch.dtype = torch.float32,
    ignore: tuple[str, ...] = ("lm_head",),
    config: LlamaConfig = CONFIG,
) -> Written:
    """Quantized, compressed and read again by the library; `values` are of its dtype."""
    model = random_model(config, dtype)
    group = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=activations)
    apply_quantization_config(
        model,
        QuantizationConfig(config_groups={"all": group}, ignore=list(ignore), quantization_status="initialized"),
        show_progress=False,
    )
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            _calibrate(module, weights)
    compressor = ModelCompressor.from_pretrained_model(model, form)
    compressor.compress_model(model)
    save_folder(model, folder)
    compressor.update_config(str(folder))
    return Written(folder, _decompressed(model, compressor))


def _decompressed(model: PreTrainedModel, compressor: ModelCompressor) -> dict[str, torch.Tensor]:
    compressor.decompress_model(model)
    return {name: model.get_submodule(name).weight.detach() for name in linear_shapes(model.config)}


def _calibrate(module: torch.nn.Module, args: QuantizationArgs) -> None:
    weight = module.weight.detach().float()
    n, k = weight.shape
    if args.strategy in (QuantizationStrategy.GROUP, QuantizationStrategy.TENSOR_GROUP):
        parts = weight.reshape(n, k // args.group_size, args.group_size)
        lowest, highest = parts.amin(-1), parts.amax(-1)
    elif args.strategy == QuantizationStrategy.BLOCK:
        parts = weight.reshape(n // 128, 128, k // 128, 128)
        lowest, highest = parts.amin((1, 3)), parts.amax((1, 3))
    elif args.strategy == QuantizationStrategy.CHANNEL:
        lowest, highest = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    else:
        lowest, highest = weight.min()[None], weight.max()[None]
    global_scale = None
    if args.strategy == QuantizationStrategy.TENSOR_GROUP:
        global_scale = generate_gparam(weight.min(), weight.max())
        module.weight_global_scale.data.copy_(global_scale)
    scale, zero_point = calculate_qparams(lowest, highest, args, global_scale)
    module.weight_scale.data = scale.to(module.weight_scale.dtype)
    if hasattr(module, "input_scale"):
        module.input_scale.data.fill_(0.02)
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data = zero_point.to(module.weight_zero_point.dtype)
