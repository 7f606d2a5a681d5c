"""Greedy text of the compiled step against the reference path's, token by token, on 200 prompts of real text.

Where both choose differently for the first time, they have read the same tokens, and the reference's two best logits must lie
closer together than float errors can move them. What those errors are is derived, not chosen:

- The references run the same program in fp32 and in fp64. e, the largest difference of their logits over the probed steps, is
  what rounding in fp32 costs in torch's order of summation.
- Another order is no worse than one chain over K products: K roundings of random signs, sqrt(K) as much as the one rounding
  that no order is without. K is the longest inner dimension of the model.
- So the compiled logits lie within sqrt(K) e of the exact ones, the reference's within e, and if compiled prefers a to the
  reference's choice b, then  r_b - r_a <= (r_b - x_b) + (x_b - c_b) + (c_a - x_a) + (x_a - r_a) <= 2 (1 + sqrt(K)) e.

The plan is fp32 with an fp32 cache. With int8 activations greedy text cannot be compared so: a value amid two levels falls to
either, thirty layers spread it, and the references in fp32 and in fp64 then differ by whole units of logits (3.4 in the middle
of 186 prompts, int8-a8 and a bf16 cache), so that no bound of float errors says anything. Those kernels are held to their
references call by call instead (tests/kernels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from artifacts.manifest import Limits
from artifacts.precision import Scheme
from kernels.cpu.library import Library
from kernels.reference import ReferenceProgram
from kernels.spec import Argument, Array, Call
from optimizer.importers import Source, open_source
from optimizer.weights.quantized_store import QuantizedStore
from runtime.batch import Span, build_batch
from runtime.decoder import StepProgram, lay_out
from runtime.engine_core import EngineCore
from runtime.model_runner import ModelRunner, ProgramRunner
from runtime.request import Request, SamplingParams
from tests.runtime.conftest import limits

pytestmark = pytest.mark.slow

NUM_PROMPTS, NUM_TOKENS = 200, 16
SHORTEST, LONGEST = 8, 24
#: every so many prompts, the references run in fp64 as well, so many at a time
PROBED, TOGETHER = 8, 8
_LENGTH = LONGEST + NUM_TOKENS


def room(num_seqs: int, num_tokens: int) -> Limits:
    """Room for so many sequences, each of up to `num_tokens` new tokens in a step."""
    blocks = -(-_LENGTH // 16) * num_seqs
    sizes = {"num_kv_blocks": blocks, "max_num_batched_tokens": num_seqs * num_tokens, "max_model_len": 3 * 16}
    return limits(max_num_seqs=num_seqs, num_threads=2, **sizes)


Tokens = list[int]


@dataclass(frozen=True)
class Model:
    source: Source
    store: QuantizedStore

    def step(self, limits: Limits) -> StepProgram:
        plan = dict.fromkeys(self.source.architecture.linear_shapes(), Scheme("fp32"))
        return lay_out(self.source.architecture, plan, "fp32", self.store.plan_tensors(plan), limits)


@pytest.fixture(scope="module")
def model(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    source = open_source(smollm2_gguf)
    return Model(source, QuantizedStore(source, tmp_path_factory.mktemp("store")))


@pytest.fixture(autouse=True)
def two_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def prompts(model: Model, data_dir: Path) -> list[Tokens]:
    """Windows of SHORTEST to LONGEST tokens from all over the text."""
    text = (data_dir / "eval" / "wikitext2_valid.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_str(model.source.tokenizer_json).encode(text).ids
    starts = [i * (len(ids) - LONGEST) // NUM_PROMPTS for i in range(NUM_PROMPTS)]
    return [ids[start : start + SHORTEST + i % (LONGEST - SHORTEST + 1)] for i, start in enumerate(starts)]


def greedy(runner: ModelRunner, prompts: Sequence[Tokens]) -> list[Tokens]:
    """NUM_TOKENS tokens after each prompt, decoded together as a server would."""
    engine = EngineCore(runner, eos_token_ids=())
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
    texts: dict[str, Tokens] = {str(i): [] for i in range(len(prompts))}
    for (name, _), prompt in zip(texts.items(), prompts, strict=True):
        engine.add(Request(name, tuple(prompt), params))
    while engine.has_work():
        for output in engine.step():
            assert output.token_id is not None
            texts[output.request_id].append(output.token_id)
    return list(texts.values())


def next_logits(runner: ProgramRunner, prompts: Sequence[Tokens], texts: Sequence[Tokens]) -> list[NDArray[np.floating]]:
    """The logits [NUM_TOKENS, vocab] that `texts` were chosen from, after each prompt."""
    logits = []
    for first in range(0, len(prompts), TOGETHER):
        spans = []
        for prompt, text in zip(prompts[first : first + TOGETHER], texts[first : first + TOGETHER], strict=True):
            blocks = range(3 * len(spans), 3 * len(spans) + 3)
            spans.append(Span([*prompt, *text[:-1]], 0, blocks, NUM_TOKENS))
        rows = runner.run(build_batch(spans, runner.limits.kv_block_size))
        logits += np.split(rows.copy(), len(spans))
    return logits


def in_fp64(step: StepProgram) -> StepProgram:
    """`step` over fp64 buffers where it has fp32 ones, which share memory as those do; weights stay as they are."""
    wide: dict[int, Array] = {}

    def widened(value: Argument) -> Argument:
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or not value.flags.writeable:
            return value
        base = value
        while isinstance(base.base, np.ndarray):
            base = base.base
        if id(base) not in wide:
            wide[id(base)] = np.zeros(-(-base.nbytes // value.itemsize), np.float64)
        offset = 2 * (value.ctypes.data - base.ctypes.data)
        view = np.ndarray(value.shape, np.float64, wide[id(base)].data, offset, tuple(2 * stride for stride in value.strides))
        view[...] = value
        return view

    calls = [
        Call(call.symbol, {name: widened(value) for name, value in call.arguments.items()}, call.counters, call.label)
        for call in step.program.calls
    ]
    logits = widened(step.logits)
    return replace(step, program=replace(step.program, calls=tuple(calls)), logits=logits)


def test_greedy_text_is_the_references(model: Model, library: Library, prompts: list[Tokens]) -> None:
    compiled, reference = (model.step(room(NUM_PROMPTS, LONGEST)) for _ in range(2))
    ours = greedy(ProgramRunner(compiled, library.compile(compiled.program, 2)), prompts)
    theirs = greedy(ProgramRunner(reference, ReferenceProgram(reference.program)), prompts)

    differing = [i for i in range(NUM_PROMPTS) if ours[i] != theirs[i]]
    probed = sorted({*range(0, NUM_PROMPTS, PROBED), *differing})
    given = [prompts[i] for i in probed], [theirs[i] for i in probed]
    step = model.step(room(TOGETHER, _LENGTH))
    rounded, exact = (next_logits(ProgramRunner(one, ReferenceProgram(one.program)), *given) for one in (step, in_fp64(step)))
    error = max(float(np.abs(r - x).max()) for r, x in zip(rounded, exact, strict=True))
    longest = max(k for _, k in model.source.architecture.linear_shapes().values())
    bound = 2 * (1 + longest**0.5) * error
    for i in differing:
        at = next(j for j in range(NUM_TOKENS) if ours[i][j] != theirs[i][j])
        logits = rounded[probed.index(i)][at]
        margin = float(logits.max() - logits[ours[i][at]])
        assert margin <= bound, f"prompt {i}, token {at}: {margin} apart, float errors explain {bound}"
