"""The quantization methods that can be imported, by the `quant_method` of their config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optimizer.importers.errors import UnsupportedQuantization
from optimizer.importers.prequantized.awq import Awq, AwqConfig
from optimizer.importers.prequantized.compressed_tensors import CompressedTensors, CompressedTensorsConfig
from optimizer.importers.prequantized.expert_blocks import ExpertBlocks, ExpertBlocksConfig
from optimizer.importers.prequantized.fp8 import Fp8, Fp8Config
from optimizer.importers.prequantized.gptq import Gptq, GptqConfig
from optimizer.importers.prequantized.method import START_FROM_FLOAT, QuantizationConfig, parse
from optimizer.importers.prequantized.modelopt import ModelOpt, ModelOptConfig

_METHODS: Mapping[str, Callable[[dict[str, Any], str], QuantizationConfig]] = {
    "compressed-tensors": lambda config, where: CompressedTensors(parse(CompressedTensorsConfig, config, where), where),
    "gptq": lambda config, where: Gptq(parse(GptqConfig, config, where)),
    "awq": lambda config, where: Awq(parse(AwqConfig, config, where)),
    "fp8": lambda config, where: Fp8(parse(Fp8Config, config, where)),
    "modelopt": lambda config, where: ModelOpt(parse(ModelOptConfig, config, where)),
    "mxfp4": lambda config, where: ExpertBlocks(parse(ExpertBlocksConfig, config, where)),
}
#: what else writers call them
_ALIASES = {"compressed_tensors": "compressed-tensors", "modelopt_fp4": "modelopt"}


def quantization_method(config: object, where: str) -> QuantizationConfig:
    """What a quantization config, found at `where`, describes. UnsupportedQuantization names the key, the rule, the value."""
    name = config.get("quant_method") if isinstance(config, dict) else None
    build = _METHODS.get(_ALIASES.get(name, name)) if isinstance(name, str) else None
    if not isinstance(config, dict) or build is None:
        raise UnsupportedQuantization(
            f"{where}: quant_method must be one of {', '.join(_METHODS)}, got {name!r}; {START_FROM_FLOAT}"
        )
    return build(config, where)
