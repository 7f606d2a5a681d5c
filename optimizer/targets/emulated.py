"""Any precision plan as a GPU computes it, emulated on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from artifacts.precision import Plan
from kernels.compile.cross_compile import gpu_sources_digest
from kernels.gpu.tensors import TORCH_DTYPES
from kernels.spec import Array
from optimizer.evaluation.metrics import Logits
from optimizer.measure.workbench import Workbench
from runtime.gpu.decoder import lay_out_gpu
from runtime.gpu.emulator import Emulator
from runtime.gpu.weights import to_device, to_torch
from runtime.model_runner import ModelRunner
from runtime.scoring import score_together

#: tokens of a step when texts are scored: logits of as many rows are held at once
_TOKENS_TOGETHER = 1024


@dataclass(frozen=True)
class EmulatedWorkbench(Workbench):
    """Through the references of the GPU's kernels, activations of dtype `act`."""

    act: str

    @property
    def numbers(self) -> object:
        return self.act, self.kv_block_size, gpu_sources_digest()

    def exact(self) -> Self:
        return replace(self, kv_dtype="bf16")

    def caches(self, runner: ModelRunner) -> Iterator[Array]:
        assert isinstance(runner, Emulator)
        for call in runner.program.body:
            if call.symbol.startswith("gpu_rope_and_cache_"):
                for name in ("k_cache", "v_cache"):
                    cache = call.arguments[name]
                    assert isinstance(cache, torch.Tensor)
                    yield cache.numpy()

    def runner(self, plan: Plan, max_num_tokens: int, num_kv_tokens: int, max_num_seqs: int = 1) -> Emulator:
        limits = self.limits(max_num_tokens, num_kv_tokens, max_num_seqs, num_threads=1)
        act, host = TORCH_DTYPES[self.act], torch.device("cpu")
        tensors = to_device(to_torch(self.store.plan_tensors(plan)), plan, act, host)
        return Emulator(lay_out_gpu(self.architecture, plan, self.kv_dtype, tensors, limits, act, host))

    def score_each(self, plan: Plan, texts: Sequence[list[int]]) -> Iterator[Logits]:
        """Several at once: the host widens the weights for every step, however many tokens it has."""
        longest = max(map(len, texts))
        together = max(1, _TOKENS_TOGETHER // longest)
        room = -(-longest // self.kv_block_size) * self.kv_block_size
        runner = self.runner(plan, together * longest, together * room, together)
        for start in range(0, len(texts), together):
            yield from score_together(runner, texts[start : start + together])
            self.check_range(runner)
