"""A transformers model written as llama.cpp's converter writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quantize
from transformers import PreTrainedConfig, PreTrainedModel

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "block_sparse_moe.router": "ffn_gate_inp",
    "shared_mlp.output_linear": "ffn_down_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
} | {
    f"self_attn.{x}": f"attn_{x.removesuffix('_proj')}" for x in ("q_proj", "k_proj", "v_proj", "qkv_proj", "q_norm", "k_norm")
}

_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
#: what families name otherwise, by the names that their graphs in llama.cpp read
_OTHER_NAMES = {
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "glm4": {
        "post_self_attn_layernorm": "post_attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "post_mlp_layernorm": "post_ffw_norm",
        "mlp.gate_up_proj": "ffn_up",
    },
    "gemma4": {
        **_GEMMA,
        "model.embed_tokens_per_layer": "per_layer_token_embd",
        "model.per_layer_model_projection": "per_layer_model_proj",
        "model.per_layer_projection_norm": "per_layer_proj_norm",
        "per_layer_input_gate": "inp_gate",
        "per_layer_projection": "proj",
        "post_per_layer_input_norm": "post_norm",
        "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
        "post_feedforward_layernorm_1": "post_ffw_norm_1",
        "post_feedforward_layernorm_2": "post_ffw_norm_2",
    },
    "olmo2": _GEMMA,
    "gpt-oss": {"post_attention_layernorm": "post_attention_norm"},
    "phi3": {"mlp.gate_up_proj": "ffn_up"},
}
_ARCHITECTURES = {
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
    "gemma4_unified_text": "gemma4",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
    "granitemoehybrid": "granitemoe",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "gpt_oss": "gpt-oss",
}
#: whose q and k llama.cpp turns by neighbours, and so reorders
_REORDERED = ("llama", "smollm3", "granite", "granitemoe")
#: ends of names -> the two tensors of which the first has the first half of the rows, of each matrix
_HALVES = {
    "experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"),
    "shared_mlp.input_linear.weight": ("ffn_gate_shexp", "ffn_up_shexp"),
}
#: Gemma 4's router and experts
_BESIDE_DENSE = {
    "proj": "ffn_gate_inp.weight",
    "scale": "ffn_gate_inp.scale",
    "per_expert_scale": "ffn_down_exps.scale",
    "gate_up_proj": "ffn_gate_up_exps.weight",
    "down_proj": "ffn_down_exps.weight",
}
#: whose gains Hugging Face keeps less one
_WHOLE_GAINS = ("gemma", "gemma2", "gemma3")

#: a tokenizer just large enough to open the file
TOKENIZER: dict[str, object] = {
    "model": "gpt2",
    "pre": "default",
    "tokens": ["<s>", "</s>", *(chr(ord("!") + i) for i in range(93)), "!!"],
    "token_type": [3, 3, *[1] * 94],
    "merges": ["! !"],
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    *,
    metadata: Mapping[str, object] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    drop: str | None = None,
    leave_out: str | None = None,
    tokenizer: Mapping[str, object] = TOKENIZER,
    part_tensors: int = 0,
    joins_qkv: bool = False,
) -> Path:
    """`model` at `path`, matrices as `kind`. `metadata` overrides keys (None leaves one out), `drop` leaves out a
    tensor by the model's name, `leave_out` (a pattern) those of the file's names.

    With `part_tensors` it is parts of at most so many tensors each, named after `path` as the gguf package names them.
    `joins_qkv`: q, k and v are one tensor, as the converter's --fuse-qkv makes them.
    """
    config = model.config
    stated = config.to_dict()  # of sizes that differ by layer those that are of all
    arch = _ARCHITECTURES.get(config.model_type, config.model_type)
    values: dict[str, object] = {
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": stated["num_key_value_heads"],
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"],
        f"{arch}.vocab_size": config.vocab_size,
        **{f"tokenizer.ggml.{key}": value for key, value in tokenizer.items()},
    }
    if stated.get("head_dim"):
        values[f"{arch}.attention.key_length"] = values[f"{arch}.attention.value_length"] = stated["head_dim"]
    values |= metadata or {}
    writer = GGUFWriter(path, str(values.pop("general.architecture", arch)), split_max_tensors=part_tensors)
    for key, value in values.items():
        if value is not None:
            writer.add_key_value(key, value, GGUFValueType.get_type(value))
    joined: dict[str, dict[str, np.ndarray]] = {}
    state = model.state_dict()
    for name, tensor in state.items():
        if name == drop or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        array = tensor.float().numpy()
        if arch in _WHOLE_GAINS and name.endswith("norm.weight"):
            array = array + np.float32(1)
        if arch in _REORDERED and (found := re.search(r"self_attn\.([qk])_proj", name)):
            heads = config.num_attention_heads if found[1] == "q" else config.num_key_value_heads
            array = _permuted(array, heads)
        stored = kind if array.ndim > 1 and "_bias" not in name else GGMLQuantizationType.F32
        found = re.search(r"self_attn\.([qkv])_proj", name) if joins_qkv else None
        if found and name.replace(found[0], "self_attn.v_proj") in state:
            name = name.replace(found[0], "self_attn.qkv_proj")
            parts = joined.setdefault(name, {})
            parts[found[1]] = array
            if len(parts) < 3:
                continue
            array = np.concatenate([parts[part] for part in "qkv"])
        for part, values in _apart(name, array, arch, config).items():
            if leave_out and re.fullmatch(leave_out, part):
                continue
            writer.add_tensor(part, quantize(values, stored), raw_dtype=stored)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _apart(name: str, array: np.ndarray, arch: str, config: PreTrainedConfig) -> dict[str, np.ndarray]:
    """The file's tensors of one of the model's."""
    if name.endswith("kv_b_proj.weight"):
        heads = array.reshape(config.num_attention_heads, -1, array.shape[1])
        keys, values = np.split(heads, [config.qk_nope_head_dim], axis=1)
        layer = name.split(".")[2]
        return {
            f"blk.{layer}.attn_k_b.weight": np.ascontiguousarray(keys.swapaxes(1, 2)),
            f"blk.{layer}.attn_v_b.weight": np.ascontiguousarray(values),
        }
    if name.endswith("e_score_correction_bias"):
        return {f"blk.{name.split('.')[2]}.exp_probs_b.bias": array}
    layer = "".join(name.split(".")[2:3])
    if arch == "gpt-oss" and (found := re.search(r"experts\.(gate_up|down)_proj(_bias)?$", name)):
        rows = array if found[2] else array.swapaxes(1, 2)
        parts = {"gate": rows[:, ::2], "up": rows[:, 1::2]} if found[1] == "gate_up" else {"down": rows}
        end = "bias" if found[2] else "weight"
        return {f"blk.{layer}.ffn_{part}_exps.{end}": np.ascontiguousarray(values) for part, values in parts.items()}
    if name.endswith("sinks"):
        return {f"blk.{layer}.attn_sinks.weight": array}
    if name.endswith("layer_scalar"):
        return {f"blk.{layer}.layer_output_scale.weight": array}
    if arch == "gemma4" and (found := re.search(r"layers\.\d+\.(router|experts)\.(\w+)", name)):
        return {f"blk.{layer}.{_BESIDE_DENSE[found[2]]}": array}
    for end, parts in _HALVES.items():
        if name.endswith(end):
            halves = np.split(array, 2, axis=-2)
            return {f"blk.{layer}.{part}.weight": np.ascontiguousarray(half) for part, half in zip(parts, halves, strict=True)}
    if name.endswith("experts.down_proj"):
        return {f"blk.{layer}.ffn_down_exps.weight": array}
    return {_gguf_name(name, arch): array}


def _permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order: the rows that rotate together, i and i + head_dim / 2 of a head, become neighbours."""
    per_head = rows.reshape(heads, -1, *rows.shape[1:])
    half = per_head.shape[1] // 2
    neighbours = [i + offset for i in range(half) for offset in (0, half)]
    return np.ascontiguousarray(per_head[:, neighbours].reshape(rows.shape))


def _gguf_name(name: str, arch: str) -> str:
    for theirs, ggufs in (_NAMES | _OTHER_NAMES.get(arch, {})).items():
        name = name.replace(f"{theirs}.", f"{ggufs}.")
    return name.replace("model.layers.", "blk.")
