"""The F32 GGUF of a Llama or Mixtral folder. It carries no tokenizer: prompts are token ids, for every engine."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

from benchmarks.peers.float_model import read_config

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.w3": "ffn_up_exps",
    "block_sparse_moe.experts.w2": "ffn_down_exps",
}
#: the number in a name: without it, it names all experts of a layer together
_EXPERT = re.compile(r"(?<=experts\.)(\d+)\.")


def write_f32_gguf(folder: Path, path: Path) -> None:
    """Write the model in the Hugging Face `folder` to `path`, every tensor F32. ValueError for a scaled rotary embedding."""
    config = read_config(folder)
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rotary embeddings with scaling are not written to GGUF here, got {rope['rope_type']!r}")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    num_experts = config.get("num_local_experts", 0)
    if num_experts:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                    continue
                if expert := _EXPERT.search(name):
                    if expert[1] == "0":  # the others are in the same file
                        each = (_EXPERT.sub(f"{i}.", name) for i in range(num_experts))
                        joined = np.stack([tensors.get_tensor(one).float().numpy() for one in each])
                        writer.add_tensor(_gguf_name(_EXPERT.sub("", name)), joined)
                    continue
                array = tensors.get_tensor(name).float().numpy()
                if ".q_proj." in name or ".k_proj." in name:
                    array = _permuted(array, heads if ".q_proj." in name else kv_heads)
                writer.add_tensor(_gguf_name(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`."""
    module, kind = name.rsplit(".", 1)
    if not module.startswith("model.layers."):
        return f"{_NAMES[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{_NAMES[inner]}.{kind}"


def _permuted(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """The order of llama.cpp's `llama`: rows that rotate together, i and i + head_dim / 2 of a head, become neighbours."""
    halves = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))
