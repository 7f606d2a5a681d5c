"""What must be known of a compiled kernel in order to launch it, readable where there is no Triton (docs/kernel-abi.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TensorMapMetadata:
    """How the compiled kernel wants a descriptor encoded.

    `box` is what one hardware copy fetches, outermost first, in elements: not the block shape of the signature, which a
    swizzle may cut into several. `swizzle` counts as the driver does: 0 none, 1, 2 and 3 for 32, 64 and 128 bytes.
    """

    swizzle: int
    box: tuple[int, ...]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TensorMapMetadata:
        # Element type and size follow from the signature.
        if fields.get("is_im2col") or fields["fp4_padded"]:
            raise ValueError(f"only plain tiled descriptors can be launched, got {dict(fields)}")
        return cls(int(fields["swizzle"]), tuple(map(int, fields["block_size"])))

    def to_json(self) -> dict[str, Any]:
        return {"swizzle": self.swizzle, "block_size": list(self.box), "fp4_padded": False}


@dataclass(frozen=True)
class BinaryMetadata:
    """The launch metadata of one image. `parameters` are (name, Triton's type) in the order of the kernel's function.

    `num_warps` includes warps that specialization added; scratch is per program; `tensordesc` is empty where descriptors are
    passed as pointer, shape and strides.
    """

    entry: str
    arch: str
    parameters: tuple[tuple[str, str], ...]
    num_warps: int
    shared_bytes: int
    global_scratch_bytes: int
    global_scratch_align: int
    profile_scratch_bytes: int
    tensordesc: tuple[TensorMapMetadata, ...]
    triton: str

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> BinaryMetadata:
        """Of what `to_json` or the compiler's worker wrote. KeyError, TypeError or ValueError for anything else."""
        parameters = tuple((str(name), str(kind)) for name, kind in fields["parameters"])
        tensordesc = tuple(TensorMapMetadata.from_json(entry) for entry in fields["tensordesc"])
        return cls(**{**fields, "parameters": parameters, "tensordesc": tensordesc})

    def to_json(self) -> dict[str, Any]:
        """As JSON values; descriptors as Triton names their fields."""
        parameters = [list(parameter) for parameter in self.parameters]
        return {**asdict(self), "parameters": parameters, "tensordesc": [entry.to_json() for entry in self.tensordesc]}
