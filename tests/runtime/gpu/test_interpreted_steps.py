"""Steps through every Triton kernel, under the interpreter, against the same steps through the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from artifacts.manifest import Limits
from artifacts.precision import KvDtype
from kernels.gpu.launch import TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tensors import empty
from kernels.interpreter import Interpreter
from runtime.batch import Batch, Span, build_batch
from runtime.draws import Draws
from runtime.gpu.emulator import Emulator
from runtime.gpu.execution import Planner
from runtime.gpu.runner import GpuRunner
from tests.runtime.conftest import limits
from tests.runtime.gpu.conftest import CONFIGS, Small

TARGET = Target.of("sm_90", 132)
#: Three sequences run, four are computed: the last one pads.
ROOM = limits(max_num_seqs=6, max_num_batched_tokens=16, max_model_len=48, num_kv_blocks=10)
TEXT = np.random.default_rng(3).integers(0, 99, 80).tolist()
#: Per step and sequence: how many of its tokens are computed. A prompt in one step, one in two, one that joins late.
STEPS = ((3, 12, 0), (1, 6, 5), (1, 1, 1))
PROMPTS = (3, 18, 5)

#: models that the default suite runs
DEFAULT = ("deepseek_v3",)
#: every way to store weights as codes, in one model
MIXED = {
    "embed": "int8",
    "layers.0.qkv": "int8",
    "layers.0.o": "int4-g32-sym",
    "layers.0.gate_up": "fp8",
    "layers.0.down": "mxfp4",
    "layers.1.qkv": "int8-a8",
    "layers.1.o": "int4-g32-asym",
    "layers.1.gate_up": "fp8-block",
    "layers.1.down": "nvfp4",
    "head": "fp8-tensor",
}


@dataclass
class Conversation:
    """Sequences that are continued by the tokens that the reference chooses, over blocks in no order."""

    texts: list[list[int]]
    computed: list[int]
    tables: list[list[int]]

    @classmethod
    def begin(cls, room: Limits) -> Conversation:
        starts = np.cumsum([0, *PROMPTS])
        texts = [TEXT[start : start + length] for start, length in zip(starts, PROMPTS, strict=False)]
        blocks = np.random.default_rng(0).permutation(room.num_kv_blocks)[: 3 * len(PROMPTS)]
        return cls(texts, [0] * len(PROMPTS), blocks.reshape(len(PROMPTS), -1).tolist())

    def step(self, lengths: tuple[int, ...]) -> tuple[Batch, list[int]]:
        """The batch, and which sequences have their logits computed, in order."""
        spans, ends = [], []
        for row, length in enumerate(lengths):
            start, text = self.computed[row], self.texts[row]
            self.computed[row] += length
            reaches_end = length > 0 and self.computed[row] == len(text)
            ends += [row] if reaches_end else []
            if length:
                spans.append(Span(text[start : start + length], start, self.tables[row], int(reaches_end)))
        return build_batch(spans, ROOM.kv_block_size), ends


def greedy(count: int) -> Draws:
    ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
    ints = np.zeros(count, np.int32)
    return Draws(zeros, ints, ones, zeros, np.zeros(count, np.int64), ints)


@pytest.fixture(autouse=True)
def workspaces_that_were_used_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls share workspaces, so no kernel may rely on what one holds."""

    def used(meta: TensorMeta, device: torch.device) -> torch.Tensor:
        made = empty(meta, device)
        return made.fill_(float("nan") if made.is_floating_point() else 77)

    monkeypatch.setattr("runtime.gpu.execution.empty", used)


def check(model: Small, schemes: str | Mapping[str, str], kv_dtype: KvDtype = "bf16") -> None:
    """Logits are as near to unrounded ones as the reference's (four times, as for each kernel), and greedy tokens are its own,
    unless two are closer than what rounding does to logits."""
    runner = GpuRunner(model.program(schemes, torch.float16, ROOM, kv_dtype), Planner(Interpreter(), TARGET, None))
    reference = Emulator(model.program(schemes, torch.float16, ROOM, kv_dtype))
    unrounded = Emulator(model.program(schemes, torch.float32, ROOM, kv_dtype))
    talk, chosen = Conversation.begin(ROOM), []
    for lengths in STEPS:
        batch, ends = talk.step(lengths)
        exact, expected = unrounded.run(batch), reference.run(batch)
        tokens = runner.draw(batch, greedy(len(ends)))
        logits = runner.program.logits[: len(ends)].numpy()
        rounding = np.abs(expected - exact).max()
        assert np.abs(logits - exact).max() <= 4 * rounding
        assert tokens.tolist() == logits.argmax(axis=1).tolist()
        for row, (token, sequence) in enumerate(zip(tokens, ends, strict=True)):
            margin = expected[row].max() - expected[row, token]
            assert margin <= 2 * rounding, f"the kernels chose {token} over {expected[row].argmax()}"
            talk.texts[sequence].append(int(expected[row].argmax()))
            chosen.append(token == expected[row].argmax())
    assert np.mean(chosen) > 0.7, "the margins of these models are too small to prove anything"


@pytest.mark.parametrize("name", DEFAULT)
def test_kernels_choose_the_reference_s_tokens(small: Callable[[str], Small], name: str) -> None:
    check(small(name), "bf16")


def test_every_way_to_store_weights_in_one_model(small: Callable[[str], Small]) -> None:
    check(small("qwen2"), MIXED, "int8")


OTHERS: list[tuple[str, str, KvDtype]] = [
    *((name, "bf16", "bf16") for name in CONFIGS if name not in DEFAULT),
    *((name, scheme, "bf16") for name in ("qwen3_moe", "deepseek_v3") for scheme in ("int8-a8", "fp8")),
    ("deepseek_v3, wide", "fp8-block", "bf16"),
    ("qwen3", "int4-g32-asym", "fp8"),
    ("qwen2", "int8", "fp16"),
    ("mistral", "fp8-block", "int8"),
    ("llama", "mxfp4", "fp8"),
    ("gpt_oss", "mxfp4", "bf16"),
    ("qwen3_moe", "nvfp4", "bf16"),
    ("llama", "nvfp4", "fp8"),
    ("qwen3", "fp8-tensor", "fp8"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme", "kv_dtype"), OTHERS)
def test_other_models(small: Callable[[str], Small], name: str, scheme: str, kv_dtype: KvDtype) -> None:
    check(small(name), scheme, kv_dtype)
