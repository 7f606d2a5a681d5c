"""Compiled kernels for tests: one cache and one pool of compilers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kernels.compile.cross_compile import Compiled, CrossCompiler
from kernels.gpu.kernel_source import KernelSource


def compile_all(compiler: CrossCompiler, sources: Iterable[KernelSource]) -> list[Compiled]:
    """The kernels of `sources`, in order; the test fails with what the compiler said where there is none."""
    wanted = list(sources)
    compiled = compiler.compile(wanted)
    kernels = []
    for source in wanted:
        kernel = compiled[source.identity]
        if not isinstance(kernel, Compiled):
            pytest.fail(str(kernel))
        kernels.append(kernel)
    return kernels
