"""compressed-tensors checkpoints: groups of modules, each with arguments and a format."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from optimizer.importers.errors import UnsupportedQuantization
from optimizer.importers.prequantized.float4 import MXFP4_GRID, NVFP4_GRID, Mxfp4, Nvfp4
from optimizer.importers.prequantized.float8 import Float8
from optimizer.importers.prequantized.integers import ByteQuantized, PackQuantized
from optimizer.importers.prequantized.method import PER_CHANNEL, PER_TENSOR, START_FROM_FLOAT, ConfigModel, Format, Grid
from optimizer.importers.prequantized.words import Bits

_FORMATS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
)

_BITS: dict[int, Bits] = {4: 4, 8: 8}


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _extents(value: object) -> object:
    """Old writers' "128x128" as a list."""
    return value.split("x") if isinstance(value, str) else value


class WeightArgs(ConfigModel):
    """compressed-tensors' QuantizationArgs of a weight."""

    num_bits: int = 8
    type: Annotated[Literal["int", "float"], BeforeValidator(_lower)] = "int"
    symmetric: bool = True
    strategy: Annotated[Literal["tensor", "channel", "group", "block", "tensor_group"] | None, BeforeValidator(_lower)] = None
    group_size: int | None = None
    block_structure: Annotated[list[PositiveInt] | None, BeforeValidator(_extents)] = Field(None, min_length=2, max_length=2)

    def grid(self) -> Grid | None:
        """None where the strategy lacks what it needs."""
        sized = self.group_size if self.group_size and self.group_size > 0 else None
        strategy = self.strategy or ("group" if sized else "channel" if self.group_size == -1 else "tensor")
        if strategy == "block":
            return None if self.block_structure is None else Grid(*self.block_structure)
        if strategy in ("group", "tensor_group"):
            return None if sized is None else Grid(1, sized)
        return PER_TENSOR if strategy == "tensor" else PER_CHANNEL


class ConfigGroup(ConfigModel):
    targets: list[str]
    weights: WeightArgs | None = None
    input_activations: dict[str, object] | None = None
    format: str | None = None


def _none_if_empty(section: object) -> object:
    is_empty = isinstance(section, dict) and (not section or section.get("format") == "dense")
    return None if is_empty else section


class CompressedTensorsConfig(ConfigModel):
    """Without quantization_status: it often says "frozen" of what is compressed, so how a matrix is stored decides."""

    config_groups: dict[str, ConfigGroup]
    format: str
    ignore: list[str] | None = None
    kv_cache_scheme: dict[str, object] | None = None
    transform_config: Annotated[None, BeforeValidator(_none_if_empty)] = None
    """Rotations at run time would be part of the function."""
    sparsity_config: Annotated[None, BeforeValidator(_none_if_empty)] = None

    def formats(self, where: str) -> list[tuple[ConfigGroup, Format | None]]:
        """The layout of each group's matrices, None where its weights are not quantized."""
        return [(g, self._format(g, f"{where}.config_groups.{name}")) for name, g in self.config_groups.items()]

    def _format(self, group: ConfigGroup, where: str) -> Format | None:
        if group.weights is None:
            return None
        args, layout = group.weights, group.format or self.format
        grid = args.grid()
        if grid is None:
            raise UnsupportedQuantization(
                f"{where}: strategy {args.strategy} needs {'block_structure' if args.strategy == 'block' else 'a group_size'}; "
                f"{START_FROM_FLOAT}"
            )
        if layout == "nvfp4-pack-quantized" and (args.num_bits, args.type, grid) == (4, "float", NVFP4_GRID):
            return Nvfp4()
        if layout == "mxfp4-pack-quantized" and (args.num_bits, args.type, grid) == (4, "float", MXFP4_GRID):
            return Mxfp4()
        if layout in ("float-quantized", "naive-quantized") and (args.num_bits, args.type) == (8, "float") and args.symmetric:
            return Float8(grid)
        bits = _BITS.get(args.num_bits)
        if args.type == "int" and bits is not None and args.strategy != "block":
            if layout == "pack-quantized":
                return PackQuantized(bits, args.symmetric, grid)
            if layout in ("int-quantized", "naive-quantized"):
                return ByteQuantized(bits, args.symmetric, grid)
        raise UnsupportedQuantization(
            f"{where}: weights must be int of 4 or 8 bits, float of 8, nvfp4 or mxfp4, in the format that belongs to it "
            f"({', '.join(_FORMATS)}), got {'symmetric' if args.symmetric else 'asymmetric'} {args.type} of {args.num_bits} "
            f"bits by {args.strategy} in format {layout}; {START_FROM_FLOAT}"
        )


class CompressedTensors:
    """The first group with a target that names a module, or its class, counts."""

    names_every_module = True

    def __init__(self, config: CompressedTensorsConfig, where: str) -> None:
        self.has_static_kv_scales = config.kv_cache_scheme is not None and not config.kv_cache_scheme.get("dynamic")
        activations = any(group.input_activations for group in config.config_groups.values())
        given = (("input_activations", activations), ("kv_cache_scheme", config.kv_cache_scheme is not None))
        self.ignored = tuple(key for key, is_given in given if is_given)
        self._ignore = config.ignore or []
        self._formats = config.formats(where)

    def format(self, module: str, *, is_embedding: bool) -> Format | None:
        kind = "Embedding" if is_embedding else "Linear"
        if any(_matches(pattern, module, kind) for pattern in self._ignore):
            return None
        groups = (layout for group, layout in self._formats if any(_matches(t, module, kind) for t in group.targets))
        return next(groups, None)


def _matches(pattern: str, module: str, kind: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), module) is not None
    return pattern in (module, kind)
