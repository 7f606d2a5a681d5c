"""What is exported to whom: plans of precision, and the runtimes that read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch

from artifacts.architecture import Architecture
from artifacts.precision import Scheme
from optimizer.exporters import FloatDtype


@dataclass(frozen=True)
class Plan:
    """`linear` for the linear layers but those that match a pattern of `bf16`, of the last `num_layers` alone if given.

    `dtype` is what the export says that its reader computes in. `transform` is model.yaml's, for the scheme `linear`.
    """

    linear: str
    embedding: str = "bf16"
    num_layers: int | None = None
    bf16: tuple[str, ...] = ()
    transform: str = "none"
    dtype: FloatDtype | None = None

    def of(self, architecture: Architecture, *, float_activations: bool = False) -> dict[str, Scheme]:
        """Layer group -> scheme; with `float_activations` the same codes of weights, and activations left alone."""
        a = architecture
        first = a.num_layers - (a.num_layers if self.num_layers is None else self.num_layers)
        late = tuple(f"layers.{layer}." for layer in range(first, a.num_layers))

        def scheme(group: str) -> Scheme:
            if group == "embed":
                return Scheme.parse(self.embedding)
            if not group.startswith(late) or any(fnmatch(group, pattern) for pattern in self.bf16):
                return Scheme.parse("bf16")
            found = Scheme.parse(self.linear)
            return replace(found, int8_activations=False) if float_activations else found

        return {group: scheme(group) for group in a.linear_shapes()}


@dataclass(frozen=True)
class Reading:
    """A runtime, the format that it reads, and what it is given to read."""

    runtime: str
    form: str
    plans: tuple[Plan, ...]


#: Of vLLM's with int8 activations each rounds fewer of them, which alone decides how near two runtimes come (decision 0018).
#: The patterns are for SmolLM2-135M, which has 30 layers.
READINGS = (
    Reading(
        "vllm",
        "compressed-tensors",
        (
            Plan("int4-g64-sym"),
            Plan("int4-g64-asym"),
            Plan("int8-a8", dtype="float32"),
            *(
                Plan("int8-a8", num_layers=num_layers, bf16=bf16, transform="smoothquant", dtype=dtype)
                for num_layers, bf16, dtype in (
                    (None, (), "float32"),
                    (None, ("*.down",), "float32"),
                    (None, ("*.down",), None),
                    (None, ("*.down", "layers.2[5-9].*"), "float32"),
                    (None, ("*.down", "layers.2?.*"), "float32"),
                    (4, (), "float32"),
                )
            ),
        ),
    ),
    Reading(
        "llama.cpp",
        "gguf",
        (Plan("int4-g64-sym", "int8"), Plan("int4-g32-asym", "int8"), Plan("int8", "int8"), Plan("bf16"), Plan("fp32", "fp32")),
    ),
    Reading(
        "onnxruntime",
        "onnx",
        (
            Plan("int4-g64-sym", "int8"),
            Plan("int4-g32-asym", "int4-g32-sym"),
            Plan("int8", "int8"),
            Plan("int8-a8"),
            Plan("int8-a8", num_layers=1),
        ),
    ),
)
