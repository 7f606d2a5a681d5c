"""mxfp4 checkpoints as OpenAI published gpt-oss: matrices of all experts in one tensor, in blocks of 32 codes."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from artifacts.weight_formats import MXFP4_GROUP
from kernels.scaled_matmul.packing import split_nibbles
from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.errors import QuantizationMismatch, ShapeMismatch
from optimizer.importers.prequantized.float4 import MXFP4_GRID, read_e8m0
from optimizer.importers.prequantized.method import ConfigModel, Format
from optimizer.importers.prequantized.module import Module

_PAIRS = MXFP4_GROUP // 2
_ROLE = "blocks of mxfp4 codes"


class ExpertBlocksConfig(ConfigModel):
    modules_to_not_convert: list[str] | None = None
    """Names of modules, with `*` for a part."""


@dataclass(frozen=True)
class ExpertBlocks:
    """`<name>_blocks` u8 [experts, N, K / 32, 16], k even in the low nibble, `<name>_scales` u8 [experts, N, K / 32], e8m0.

    N and K are those of the product: the same matrices in bf16 are [experts, K, N].
    """

    config: ExpertBlocksConfig

    names_every_module = False
    has_static_kv_scales = False
    ignored = ()

    def format(self, module: str, *, is_embedding: bool) -> Format | None:
        listed = self.config.modules_to_not_convert or ()
        return None if any(fnmatchcase(module, name) or fnmatchcase(module, f"{name}.*") for name in listed) else self

    def shape(self, module: Module) -> tuple[int, int, int]:
        experts, rows, blocks = self._blocks(module)
        return experts, blocks * MXFP4_GROUP, rows

    def tensors(self, module: Module) -> set[str]:
        return {"blocks", "scales"}

    def check(self, module: Module) -> None:
        module.expect("scales", ("U8",), self._blocks(module), _ROLE)

    def read(self, module: Module) -> StoredMatrix:
        experts, rows, blocks = self._blocks(module)
        codes = split_nibbles(module.bits("blocks").reshape(experts * rows, blocks * _PAIRS))
        return StoredMatrix("e2m1", codes, read_e8m0(module, "scales", codes.shape), *MXFP4_GRID.extents(codes.shape))

    def _blocks(self, module: Module) -> tuple[int, int, int]:
        """Experts, rows of each, and blocks of a row."""
        if module.joint != "_":
            raise QuantizationMismatch(
                f"{module.name} is quantized in another way than quant_method mxfp4 says, which is of experts' tensors alone; "
                "correct the config"
            )
        shape = module.tensor_shape("blocks", "U8", _ROLE)
        if len(shape) != 4 or shape[3] != _PAIRS:
            raise ShapeMismatch(
                f"{module.where('blocks')} has shape {list(shape)}, but {_ROLE} are [experts, rows, blocks, {_PAIRS}]; the "
                "file is damaged"
            )
        return shape[0], shape[1], shape[2]
