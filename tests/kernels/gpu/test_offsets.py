"""Offsets past 2^31: rows so far apart that 32 bits do not reach the last of them.

The memory between rows is mapped and never touched, so it costs nothing. The stride itself fits into 32 bits, as a stride that
does not would make the product a 64-bit one on its own. A kernel that counts in 32 bits reads before its rows, and crashes.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping

import pytest
import torch

from kernels import registry
from kernels.interpreter import Interpreter
from kernels.quantize_activations.output import QUANTIZED
from tests.kernels.gpu import contract

STRIDE = 2**30
_NO_RESERVE = 0x4000


def far(rows: torch.Tensor) -> torch.Tensor:
    """`rows` [n, width] with STRIDE elements from each to the next."""
    (num_rows, width), size = rows.shape, rows.element_size()
    num_bytes = ((num_rows - 1) * STRIDE + width) * size
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    flat = torch.frombuffer(memory, dtype=rows.dtype)
    return flat.as_strided((num_rows, width), (STRIDE, 1)).copy_(rows)


def run(symbol: str, arguments: Mapping[str, object], interpreter: Interpreter) -> None:
    """Calls `symbol`, every matrix of three rows far apart, and compares with the reference on the same without gaps."""
    spec = registry.spec(symbol).typed("f16")
    expected = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in arguments.items()}
    registry.reference(symbol)(**expected)
    given = {
        name: far(value) if isinstance(value, torch.Tensor) and value.dim() == 2 and len(value) == 3 else value
        for name, value in arguments.items()
    }
    tensors = {name: value if isinstance(value, torch.Tensor) else None for name, value in given.items()}
    interpreter.run(registry.plan_call(contract.problem(spec, given), contract.TARGET), tensors)
    for tensor in spec.tensors:
        if tensor.role != "in":
            got, want = tensors[tensor.name], expected[tensor.name]
            assert got is not None and isinstance(want, torch.Tensor)
            torch.testing.assert_close(got.double(), want.double(), rtol=1e-3, atol=1e-3)


def _rows(width: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.arange(1, 3 * width + 1).view(3, width).remainder(7).sub(3).to(dtype)


def _calls() -> dict[str, tuple[str, dict[str, object]]]:
    """Symbol -> the op that makes offsets, and a call."""
    last = torch.tensor([2, 1, 0], dtype=torch.int32)
    norm = {"x": _rows(8), "weight": torch.ones(8), "eps": 1e-5}
    form = QUANTIZED[0]
    codes = {name: torch.from_numpy(array) for name, array in form.buffers(3, 8).items()}
    return {
        "gpu_gather_rows": ("gather_rows", {"x": _rows(8), "rows": last, "out": torch.zeros(3, 8).half()}),
        "gpu_embedding_w16": ("embedding", {"weight": _rows(8), "token_ids": last, "out": torch.zeros(3, 8).half()}),
        "gpu_embedding_int8": (
            "embedding",
            {"codes": _rows(8, torch.int8), "scales": torch.ones(3), "token_ids": last, "out": torch.zeros(3, 8).half()},
        ),
        "gpu_quantize_activations_int8": ("quantize_activations", {"x": _rows(8), **codes}),
        "gpu_rms_norm_int8": ("rms_norm", {**norm, "residual": _rows(8), **codes}),
        "gpu_silu_and_mul": ("silu_and_mul", {"x": _rows(16), "out": torch.zeros(3, 8).half()}),
        "gpu_softcap": ("softcap", {"x": _rows(8, torch.float32), "softcap": 30.0}),
        "gpu_scaled_add": ("scaled_add", {"stream": _rows(8), "x": _rows(8), "factor": 0.5}),
        "gpu_sample": (
            "sampling",
            {
                "logits": _rows(8, torch.float32),
                "temperatures": torch.zeros(3),
                "top_ks": torch.zeros(3, dtype=torch.int32),
                "top_ps": torch.ones(3),
                "min_ps": torch.zeros(3),
                "seeds": torch.zeros(3, dtype=torch.int64),
                "positions": torch.zeros(3, dtype=torch.int32),
                "token_ids": torch.zeros(3, dtype=torch.int32),
            },
        ),
    }


CALLS = _calls()


@pytest.mark.parametrize("symbol", CALLS)
def test_rows_beyond_32_bits(symbol: str) -> None:
    run(symbol, CALLS[symbol][1], Interpreter())
