"""A model in a GGUF file, whatever it was quantized to."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from optimizer.formats.stored_matrix import CodeKind, Misfit, StoredMatrix
from optimizer.importers.errors import SourceError
from optimizer.importers.gguf_config import ROPE_FACTORS, hf_config
from optimizer.importers.gguf_file import BLOCK, GgufFile
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json, tokenizer_notes
from optimizer.importers.source import Source
from runtime.models import architecture

_T = TypeVar("_T", bound=np.generic)
_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.F64)
_CODES: dict[GGMLQuantizationType, CodeKind] = {GGMLQuantizationType.Q4_0: "uint4", GGMLQuantizationType.Q8_0: "uint8"}

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def open_gguf(path: Path) -> Source:
    """The model in `path`. Raises SourceError and UnsupportedModel."""
    file = GgufFile.open(path)
    if file.metadata.get("split.count", 1) > 1:
        raise SourceError(f"{path} is one of several parts; join them with llama.cpp's gguf-split --merge")
    described = architecture(hf_config(file))
    return Source(
        architecture=described,
        checkpoint=GgufCheckpoint(file, described),
        tokenizer_json=tokenizer_json(file.metadata),
        chat_template=file.metadata.get("tokenizer.chat_template"),
        generation_config=special_tokens(file.metadata),
        files=(path,),
    )


@dataclass(frozen=True)
class GgufCheckpoint:
    """Tensors of a GGUF file by their Hugging Face names, as fp32."""

    file: GgufFile
    architecture: Architecture

    def shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self.file.tensors.get(gguf_name(name))
        return None if tensor is None else tensor.shape

    def is_bf16(self, name: str) -> bool:
        return False  # what the file has in bf16 is widened

    def where(self, name: str) -> str:
        return f"{gguf_name(name)} in {self.file.path}"

    def read(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._in_order(name, self.file.read(gguf_name(name))))

    def stored(self, name: str) -> StoredMatrix | Misfit | None:
        kind = self.file.tensors[gguf_name(name)].kind
        if kind in _FLOATS:
            return None
        if kind not in _CODES:
            return Misfit(f"codes are {kind.name}")
        codes, scales = self.file.read_codes(gguf_name(name))
        widened = self._in_order(name, scales).astype(np.float32)
        return StoredMatrix(_CODES[kind], self._in_order(name, codes), widened, 1, BLOCK)

    def notes(self) -> list[str]:
        return tokenizer_notes(self.file.metadata)

    def _in_order(self, name: str, rows: NDArray[_T]) -> NDArray[_T]:
        """`rows` of the tensor `name` as Hugging Face orders them."""
        if self.file.metadata["general.architecture"] == "llama":
            if ".q_proj." in name:
                return _unpermute(rows, self.architecture.num_q_heads)
            if ".k_proj." in name:
                return _unpermute(rows, self.architecture.num_kv_heads)
        return rows

    def others(self, names: Collection[str]) -> list[str]:
        used = {gguf_name(name) for name in names}
        return [name for name in self.file.tensors if name not in used and name != ROPE_FACTORS]


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`."""
    module, kind = name.rsplit(".", 1)
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    return f"blk.{layer[1]}.{_NAMES[layer[2]]}.{kind}" if layer else f"{_NAMES[module]}.{kind}"


def _unpermute(rows: NDArray[_T], num_heads: int) -> NDArray[_T]:
    """Undoes the row order that llama.cpp gives `llama` Q and K, where the two halves of a rotation are neighbours."""
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
