"""NVIDIA ModelOpt's fp8 and nvfp4 checkpoints, described by hf_quant_config.json or by config.json's quantization_config."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from optimizer.importers.prequantized.float4 import ModelOptNvfp4
from optimizer.importers.prequantized.float8 import Float8
from optimizer.importers.prequantized.method import PER_CHANNEL, PER_TENSOR, ConfigModel, Format


class ModelOptConfig(ConfigModel):
    quant_algo: Literal["FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4"]
    group_size: Literal[16] | None = None
    """Of nvfp4."""
    kv_cache_quant_algo: str | None = None
    exclude_modules: list[str] | None = None
    ignore: list[str] | None = None
    """What config.json calls `exclude_modules`."""


@dataclass(frozen=True)
class ModelOpt:
    config: ModelOptConfig

    names_every_module = False
    ignored = ()

    @property
    def has_static_kv_scales(self) -> bool:
        return self.config.kv_cache_quant_algo is not None

    def format(self, module: str, *, is_embedding: bool) -> Format | None:
        excluded = [*(self.config.exclude_modules or ()), *(self.config.ignore or ())]
        if any(fnmatchcase(module, pattern) for pattern in excluded):
            return None
        if self.config.quant_algo == "NVFP4":
            return ModelOptNvfp4()
        return Float8(PER_TENSOR if self.config.quant_algo == "FP8" else PER_CHANNEL)
