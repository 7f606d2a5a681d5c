"""A call with its tokens so far apart that 32 bits do not reach the last of them, compared with the reference without gaps."""

from __future__ import annotations

import mmap
from collections.abc import Mapping

import torch

from kernels import registry
from kernels.interpreter import Interpreter
from tests.kernels.gpu import contract

STRIDE = 2**30
NO_RESERVE = 0x4000


def far(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of `tensor` with STRIDE elements from each entry of the first axis to the next, and nothing between."""
    num_bytes = ((len(tensor) - 1) * STRIDE + tensor[0].numel()) * tensor.element_size()
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    flat = torch.frombuffer(memory, dtype=tensor.dtype)
    return flat.as_strided(tensor.shape, (STRIDE, *tensor.stride()[1:])).copy_(tensor)


def check_far_rows(symbol: str, arguments: Mapping[str, object], num_tokens: int) -> None:
    """Runs `symbol` with every tensor of `num_tokens` activations spread out; a kernel that counts in 32 bits crashes."""
    spec = registry.spec(symbol).typed("f16")
    expected = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in arguments.items()}
    registry.reference(symbol)(**expected)
    given = {
        tensor.name: far(value)
        if tensor.axes[0] == "T" and len(tensor.axes) > 1 and tensor.dtype == "f16" and len(value) == num_tokens
        else value
        for tensor in spec.tensors
        if isinstance(value := arguments[tensor.name], torch.Tensor)
    }
    call = contract.problem(spec, {**arguments, **given})
    Interpreter().run(registry.plan_call(call, contract.TARGET), given)
    for tensor in spec.tensors:
        if tensor.role != "in":
            want = expected[tensor.name]
            assert isinstance(want, torch.Tensor)
            torch.testing.assert_close(given[tensor.name].double(), want.double(), rtol=2e-3, atol=2e-3)
