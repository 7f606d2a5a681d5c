"""Programs of different lengths take turns on one team, whose threads are more than the cores: none runs another's calls."""

from __future__ import annotations

import os

import numpy as np

from kernels.cpu.library import Library
from kernels.spec import Array, Call, Program

NUM_TOKENS, HIDDEN = 8, 16
NUM_TURNS = 1000


def counting_program(num_calls: int) -> tuple[Program, Array]:
    """A program that adds 1 to everything, once a call; and what it adds to [num_calls, tokens, 1, hidden]."""
    residuals = np.zeros((num_calls, NUM_TOKENS, 1, HIDDEN), np.float32)
    ones, out = np.ones((NUM_TOKENS, 1, HIDDEN), np.float32), np.zeros((NUM_TOKENS, 1, HIDDEN), np.float32)
    weight = np.ones(HIDDEN, np.float32)
    calls = tuple(
        Call("rms_norm", {"x": ones, "residual": residual, "weight": weight, "out": out, "eps": 1e-5}, {"T": "num_tokens"})
        for residual in residuals
    )
    return Program(calls, {"num_tokens": np.array([NUM_TOKENS], np.int64)}), residuals


def test_programs_of_different_lengths_take_turns(library: Library) -> None:
    short, of_short = counting_program(2)
    long, of_long = counting_program(9)
    num_threads = 2 * len(os.sched_getaffinity(0))
    run_short, run_long = library.compile(short, num_threads).run, library.compile(long, num_threads).run
    for _ in range(NUM_TURNS):
        run_short()
        run_long()
    assert np.all(of_short == NUM_TURNS)
    assert np.all(of_long == NUM_TURNS)
