"""Programs: many calls in one run, counters that change between runs, both executors."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from kernels.cpu.library import Library
from kernels.formats.table import cpu_packing
from kernels.reference import ReferenceProgram
from kernels.spec import Array, Call, Program

CAPACITY, HIDDEN = 24, 64


class TwoNorms:
    """x -> rms_norm -> matmul -> x, twice, over buffers for 24 tokens; then two rows of x are gathered."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.tokens, self.rows = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.x = rng.standard_normal((CAPACITY, 1, HIDDEN), np.float32)
        self.gathered = np.zeros((4, HIDDEN), np.float32)
        self.wanted = np.zeros(4, np.int32)
        normed = np.zeros((CAPACITY, 1, HIDDEN), np.float32)
        weight = cpu_packing("fp32").pack({"weight": rng.standard_normal((HIDDEN, HIDDEN), np.float32) / 8})
        flat, flat_normed = self.x.reshape(CAPACITY, HIDDEN), normed.reshape(CAPACITY, HIDDEN)
        gain = np.ones(HIDDEN, np.float32)
        norm = Call("rms_norm", {"x": self.x, "weight": gain, "out": normed, "eps": 1e-5}, {"T": "num_tokens"})
        matmul = Call("quant_matmul_fp32", {"x": flat_normed, **weight, "out": flat}, {"T": "num_tokens"})
        gather = Call(
            "gather_rows", {"x": flat, "rows": self.wanted, "out": self.gathered}, {"T": "num_tokens", "R": "num_logits"}
        )
        counters = {"num_tokens": self.tokens, "num_logits": self.rows}
        self.program = Program((norm, matmul, norm, matmul, gather), counters)

    def set(self, num_tokens: int, rows: list[int]) -> None:
        self.tokens[0], self.rows[0] = num_tokens, len(rows)
        self.wanted[: len(rows)] = rows


def results(model: TwoNorms) -> tuple[Array, Array]:
    return model.x.copy(), model.gathered.copy()


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_compiled_program_agrees_with_reference(library: Library, num_threads: int) -> None:
    compiled, reference = TwoNorms(), TwoNorms()
    run = library.compile(compiled.program, num_threads).run
    walk = ReferenceProgram(reference.program).run
    for num_tokens, rows in ((24, [0, 23]), (5, [4, 1, 2]), (1, [0]), (0, []), (7, [])):
        for model in (compiled, reference):
            model.set(num_tokens, rows)
        run()
        walk()
        for got, wanted in zip(results(compiled), results(reference), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_many_short_runs_finish(library: Library) -> None:
    model = TwoNorms()
    model.set(1, [0])
    run = library.compile(model.program, 2).run
    for _ in range(2000):
        run()
    assert np.isfinite(model.gathered).all()


def test_runs_from_several_threads_take_turns(library: Library) -> None:
    models = [TwoNorms() for _ in range(3)]
    for model in models:
        model.set(24, [3])
    runs = [library.compile(model.program, 2).run for model in models]
    threads = [threading.Thread(target=lambda run=run: [run() for _ in range(50)]) for run in runs]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results(models[0])[0].tobytes() == results(models[1])[0].tobytes() == results(models[2])[0].tobytes()


def test_counter_beyond_the_buffers_is_refused(library: Library) -> None:
    model = TwoNorms()
    compiled = library.compile(model.program, 1)
    model.set(25, [])
    with pytest.raises(ValueError, match=r"num_tokens must lie in 0\.\.24.*25"):
        compiled.run()


def test_empty_program_runs(library: Library) -> None:
    library.compile(Program((), {}), 2).run()
