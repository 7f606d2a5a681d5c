"""Matrix products with int8 activations, timed on builds for several instruction sets in turn, A B A B.

    python -m benchmarks.cpu_matmul --isas x86-64-v4-vnni,x86-64-v4-amx --out FILE

Shapes are those of SmolLM2-135M's gate_up (576 -> 3072) and down (1536 -> 576). W stays in the caches between calls, as it does
not between steps.
"""

from __future__ import annotations

import numpy as np

from benchmarks import cpu_calls
from kernels import registry
from kernels.quant_matmul.spec import random_weight
from kernels.spec import Arguments, Array, Call, Program
from runtime.buffers import zeros

SHAPES = {"gate_up": (576, 3072), "down": (1536, 576)}
SCHEMES = {
    "int8": ("int8_a8", 32),
    "int8-a16": ("int8_a16", 32),
    "int4-g192": ("int4_sym_a8", 192),
    "int4-g64": ("int4_sym_a8", 64),
    "int4-g32": ("int4_sym_a8", 32),
    "int4-twolevel": ("int4_twolevel_a8", 16),
}
TOKENS = (1, 4, 8, 16, 32, 128, 512)


def product(variant: str, group_size: int, num_tokens: int, k: int, n: int) -> Program:
    """One call on random codes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (num_tokens * (2 if variant.endswith("a16") else 1), k), np.int8)
    sums = codes.reshape(len(codes), k // 32, 32).sum(axis=2, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    given: dict[str, Array] = {
        **random_weight(rng, variant, n, k, group_size),
        "x_codes": codes,
        "x_scales": rng.uniform(0.01, 0.02, num_tokens).astype(np.float32),
        "x_sums": sums,
        "out": np.zeros((num_tokens, n), np.float32),
    }
    arguments: Arguments = {"bias": None}
    for name, array in given.items():
        arguments[name] = aligned = zeros(array.shape, array.dtype)
        aligned[...] = array
    spec = registry.spec(f"quant_matmul_{variant}")
    return Program((Call(spec.symbol, arguments, {"T": "T"}),), {"T": np.array([num_tokens], np.int64)})


def main() -> None:
    options = cpu_calls.arguments(__doc__).parse_args()
    cases = (
        (f"{scheme}, {layer}, {num_tokens} tokens", product(*SCHEMES[scheme], num_tokens, *SHAPES[layer]))
        for scheme in SCHEMES
        for layer in SHAPES
        for num_tokens in TOKENS
    )
    cpu_calls.compare(cases, options)


if __name__ == "__main__":
    main()
