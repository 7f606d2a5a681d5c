"""quant_method "fp8": DeepSeek's blocks of 128 x 128, and one scale for a tensor or for each of its rows."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, PositiveInt

from optimizer.importers.prequantized.float8 import Float8
from optimizer.importers.prequantized.method import ConfigModel, Format, Grid, names_part


class Fp8Config(ConfigModel):
    weight_block_size: list[PositiveInt] | None = Field(None, min_length=2, max_length=2)
    modules_to_not_convert: list[str] | None = None
    ignored_layers: list[str] | None = None


@dataclass(frozen=True)
class Fp8:
    config: Fp8Config

    names_every_module = False
    ignored = ()
    has_static_kv_scales = False

    def format(self, module: str, *, is_embedding: bool) -> Format | None:
        excluded = [*(self.config.modules_to_not_convert or ()), *(self.config.ignored_layers or ())]
        if any(names_part(listed, module) for listed in excluded):
            return None
        block = self.config.weight_block_size
        return Float8(None if block is None else Grid(*block))
