"""Decoders in ONNX: as torch's exporter traces transformers (which is what optimum-onnx does), and with onnx.helper the nodes
that onnxruntime-genai's model builder makes."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from tests.importers.random_models import tokenizer

Floats = NDArray[np.float32]
MICROSOFT = "com.microsoft"


class _WithPast(nn.Module):
    """A cache as a flat list of tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        return (found.logits, *(part for layer in found.past_key_values.layers for part in (layer.keys, layer.values)))


def trace(model: PreTrainedModel, folder: Path) -> Path:
    """`model` as torch.onnx traces it, its config and a tokenizer beside it."""
    folder.mkdir(exist_ok=True)
    config, path = model.config, folder / "model.onnx"
    model.set_attn_implementation("eager")
    caches = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{cache}" for cache in caches)]
    outputs = ["logits", *(f"present.{cache}" for cache in caches)]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = [torch.zeros(1, config.num_key_value_heads, 5, head_dim) for _ in caches]
    axes = {name: {0: "batch", 1: name} for name in inputs[:3]} | {name: {0: "batch", 2: "past"} for name in inputs[3:]}
    arguments = (torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64), torch.arange(5, 8)[None], *past)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _WithPast(model), arguments, str(path), dynamo=False, input_names=inputs, output_names=outputs, dynamic_axes=axes,
            opset_version=18,
        )  # fmt: skip
    model.config.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@dataclass
class Packed:
    """MatMulNBits' view of a matrix: codes u8 [N, K], scales [N, K / block], zeros u8 of their shape, or None for 8."""

    codes: NDArray[np.uint8]
    scales: Floats
    zeros: NDArray[np.uint8] | None

    @classmethod
    def of(cls, weight: Floats, block: int, asymmetric: bool, scales_in: type) -> Packed:
        rows = weight.shape[0]
        grouped = weight.reshape(rows, -1, block)
        scales = ((grouped.max(2) - grouped.min(2)) / 15).astype(scales_in).astype(np.float32)
        zeros = np.clip(np.round(-grouped.min(2) / scales), 0, 15) if asymmetric else np.full(scales.shape, 8)
        codes = np.clip(np.round(grouped / scales[..., None]) + zeros[..., None], 0, 15).astype(np.uint8)
        return cls(codes.reshape(rows, -1), scales, zeros.astype(np.uint8) if asymmetric else None)

    def inputs(self, block: int) -> dict[str, NDArray[np.generic]]:
        rows, blocks = self.scales.shape
        found = {"B": _nibbles(self.codes).reshape(rows, blocks, block // 2), "scales": self.scales}
        if self.zeros is not None:
            found["zero_points"] = _nibbles(self.zeros).reshape(-1)
        return found


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two to a byte of each row, the first one low."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, 0::2] | even[:, 1::2] << np.uint8(4)


@dataclass
class Built:
    """The graph that the builder makes of a llama, mistral, qwen2 or qwen3, with genai_config.json."""

    model: PreTrainedModel
    block: int = 0
    """Of int4 codes; 0: floats."""
    asymmetric: bool = False
    scales_in: type = np.float16
    """float32: as the builder has them for CPUs."""
    packed_qkv: bool = True
    dtype: type = np.float32
    window: int = -1
    shared: bool = False
    """Whether tokens look up rows of the head's codes."""
    codes: dict[str, Packed] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        config, state = self.model.config, {name: value.float().numpy() for name, value in self.model.state_dict().items()}
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        sizes = [heads * head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        self._lengths()
        angles = self._angles(config.max_position_embeddings, head_dim)
        for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
            self._store(name, table)
        if self.shared:
            stream = self._shared_rows(state)
        else:
            self._store("embed", state["model.embed_tokens.weight"])
            stream = self._node("Gather", "embed", "input_ids")
        normed = self._node(
            "SimplifiedLayerNormalization", stream, self._gain(state, "model.layers.0.input_layernorm"), **self._eps
        )
        for layer in range(config.num_hidden_layers):
            name = f"model.layers.{layer}"
            attended = self._attention(state, name, layer, normed, sizes, head_dim)
            branch = self._linear(state, [f"{name}.self_attn.o_proj"], attended)
            normed, stream = self._skip(stream, branch, self._gain(state, f"{name}.post_attention_layernorm"))
            gate, up = (self._linear(state, [f"{name}.mlp.{part}_proj"], normed) for part in ("gate", "up"))
            activated = self._node("Mul", gate, self._node("Sigmoid", gate))
            branch = self._linear(state, [f"{name}.mlp.down_proj"], self._node("Mul", activated, up))
            last = layer + 1 == config.num_hidden_layers
            gain = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
            normed, stream = self._skip(stream, branch, self._gain(state, gain))
        logits = self._linear(state, ["lm_head"], normed)
        next(node for node in self.nodes if node.output[0] == logits).output[0] = "logits"
        integers = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", n]) for n in ("input_ids", "attention_mask")]
        caches = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
        shape = ["b", config.num_key_value_heads, "p", head_dim]
        past = [helper.make_tensor_value_info(f"past_key_values.{cache}", kind, shape) for cache in caches]
        present = [helper.make_tensor_value_info(f"present.{cache}", kind, shape) for cache in caches]
        logits_info = helper.make_tensor_value_info("logits", kind, ["b", "s", config.vocab_size])
        graph = helper.make_graph(self.nodes, "main", [*integers, *past], [logits_info, *present], self.stored)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        written = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.save(written, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
        decoder = {"filename": "model.onnx", "head_size": head_dim} | {
            key: getattr(config, key)
            for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")
        }
        stated = {"type": config.model_type, "context_length": config.max_position_embeddings, "vocab_size": config.vocab_size}
        stated |= {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id, "decoder": decoder}
        (folder / "genai_config.json").write_text(json.dumps({"model": stated, "search": {}}))
        tokenizer().save(str(folder / "tokenizer.json"))
        return folder

    @property
    def _eps(self) -> dict[str, float]:
        return {"epsilon": self.model.config.rms_norm_eps}

    def _angles(self, positions: int, head_dim: int) -> Floats:
        theta = self.model.config.rope_parameters["rope_theta"]
        return np.outer(np.arange(positions), theta ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)

    def _shared_rows(self, state: dict[str, Floats]) -> str:
        vocab, hidden = state["lm_head.weight"].shape
        self._store("flat", np.array([vocab, hidden // 2]))
        codes = self._node("Reshape", "lm_head.B", "flat")
        stated = {"bits": 4, "block_size": self.block, "gather_axis": 0, "quantize_axis": 1}
        return self._node("GatherBlockQuantized", codes, "input_ids", "lm_head.scales", domain=MICROSOFT, **stated)

    def _lengths(self) -> None:
        self._store("one", np.array([1], np.int64))
        total = self._node("ReduceSum", "attention_mask", "one", keepdims=1)
        self._node("Cast", self._node("Sub", total, "one"), out="lengths", to=TensorProto.INT32)
        self._store("axis", np.array(1, np.int64))
        total = self._node("Gather", self._node("Shape", "attention_mask"), "axis")
        self._node("Cast", total, out="total", to=TensorProto.INT32)

    def _attention(self, state: dict[str, Floats], name: str, layer: int, x: str, sizes: list[int], head_dim: int) -> str:
        config, modules = self.model.config, [f"{name}.self_attn.{part}_proj" for part in "qkv"]
        if self.packed_qkv:
            inputs = [self._linear(state, modules, x), "", ""]
        else:
            q, k, v = (self._linear(state, [module], x) for module in modules)
            if f"{name}.self_attn.q_norm.weight" in state:
                q = self._normed_heads(state, f"{name}.self_attn.q_norm", q, sizes[0], head_dim)
                k = self._normed_heads(state, f"{name}.self_attn.k_norm", k, sizes[1], head_dim)
            inputs = [q, k, v]
        inputs += [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value", "lengths", "total", "cos", "sin"]
        outputs = [f"{name}.attended", f"present.{layer}.key", f"present.{layer}.value"]
        stated = {"num_heads": config.num_attention_heads, "kv_num_heads": config.num_key_value_heads, "do_rotary": 1}
        stated |= {"local_window_size": self.window}
        self.nodes.append(helper.make_node("GroupQueryAttention", inputs, outputs, outputs[0], domain=MICROSOFT, **stated))
        return outputs[0]

    def _normed_heads(self, state: dict[str, Floats], name: str, x: str, size: int, head_dim: int) -> str:
        heads, flat = f"{name}.heads", f"{name}.flat"
        self._store(heads, np.array([0, 0, -1, head_dim]))
        self._store(flat, np.array([0, 0, size]))
        normed = self._node(
            "SimplifiedLayerNormalization", self._node("Reshape", x, heads), self._gain(state, name), axis=-1, **self._eps
        )
        return self._node("Reshape", normed, flat)

    def _linear(self, state: dict[str, Floats], modules: list[str], x: str) -> str:
        name = "+".join(modules)
        weight = np.concatenate([state[f"{module}.weight"] for module in modules])
        if self.block:
            packed = self.codes[name] = Packed.of(weight, self.block, self.asymmetric, self.scales_in)
            for part, array in packed.inputs(self.block).items():
                self._store(f"{name}.{part}", array)
            inputs = [x, *(f"{name}.{part}" for part in packed.inputs(self.block))]
            stated = {"N": weight.shape[0], "K": weight.shape[1], "bits": 4, "block_size": self.block}
            product = self._node("MatMulNBits", *inputs, domain=MICROSOFT, **stated)
        else:
            self._store(f"{name}.weight", weight.T)
            product = self._node("MatMul", x, f"{name}.weight")
        if f"{modules[0]}.bias" not in state:
            return product
        self._store(f"{name}.bias", np.concatenate([state[f"{module}.bias"] for module in modules]))
        return self._node("Add", product, f"{name}.bias")

    def _skip(self, stream: str, branch: str, gain: str) -> tuple[str, str]:
        outputs = [f"{gain}.normed", "", "", f"{gain}.stream"]
        self.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization", [stream, branch, gain], outputs, outputs[0], domain=MICROSOFT, **self._eps
            )
        )
        return outputs[0], outputs[3]

    def _gain(self, state: dict[str, Floats], name: str) -> str:
        self._store(f"{name}.gain", state[f"{name}.weight"])
        return f"{name}.gain"

    def _node(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], out, **attributes))
        return out

    def _store(self, name: str, array: NDArray[np.generic]) -> None:
        if array.dtype.kind == "f":
            array = array.astype(self.dtype)
        self.stored.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
