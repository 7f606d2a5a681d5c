"""Tuning points beyond the defaults. Every legal one is too many (153,600 points of scaled_matmul before refusals), so these
are coverings: every two values of parameters, cases, dtypes and architectures that are legal together are tried together once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest

from kernels import registry
from kernels.compile.cross_compile import Compiled, CrossCompiler
from kernels.gpu.kernel_source import KernelSource, kernel_sources
from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.interpreter import Interpreter
from kernels.spec import Case, OpSpec
from tests.kernels.gpu import contract
from tests.kernels.gpu.covering import Choice, covering

#: One of every kind that is supported; sm_86 runs what sm_80 does, with less shared memory.
ARCHS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
NUM_SMS = 132

#: Kernels whose matrix operands are of 16 bits whatever x is; activations of 32 bits, which no model has, are not for them.
SIXTEEN_BITS = (
    "gpu_paged_attention_int8",
    "gpu_paged_attention_e4m3",
    "gpu_scaled_matmul_mxfp4",
    "gpu_scaled_matmul_nvfp4",
    "gpu_moe_matmul_mxfp4",
    "gpu_moe_matmul_nvfp4",
)

SYMBOLS = tuple(registry.specs("gpu"))
#: the one that most is said about; the others are slow
QUICK_ARCHS = ("sm_90",)


@cache
def _cases(symbol: str) -> Mapping[str, Case]:
    return {case.name: case for case in registry.spec(symbol).cases}


@cache
def _call(symbol: str, act: str, case: str) -> tuple[OpSpec, Problem]:
    spec = registry.spec(symbol).typed(act)
    return spec, contract.call(spec, _cases(symbol)[case])


def _point(symbol: str, choice: Choice) -> dict[str, int]:
    tuning = registry.gpu_tuning(registry.spec(symbol).op)
    return {name: value for name in tuning.parameters(symbol) if isinstance(value := choice[name], int)}


def _covering(symbol: str, acts: tuple[str, ...], archs: tuple[str, ...]) -> list[Choice]:
    tuning = registry.gpu_tuning(registry.spec(symbol).op)
    # Nothing is launched for a case without tokens: test_interpreted has those.
    cases = tuple(name for name in _cases(symbol) if not name.startswith("no_"))

    def legal(choice: Choice) -> bool:
        _, call = _call(symbol, str(choice["act"]), str(choice["case"]))
        return tuning.refusal(call, _point(symbol, choice), Target.of(str(choice["arch"]), NUM_SMS)) is None

    return covering({"arch": archs, "act": acts, "case": cases, **tuning.parameters(symbol)}, legal)


@pytest.mark.kernels
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_pair_of_values_is_right_through_the_interpreter(symbol: str) -> None:
    wrong = []
    for choice in _covering(symbol, ("f16",) if symbol in SIXTEEN_BITS else ("f16", "f32"), ("sm_90",)):
        spec, _ = _call(symbol, str(choice["act"]), str(choice["case"]))
        case = _cases(symbol)[str(choice["case"])]
        if found := contract.violations(spec, case, Interpreter().run, _point(symbol, choice)):
            wrong.append((choice, found))
    assert not wrong


@pytest.mark.kernels
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_pair_of_values_compiles_and_fits(symbol: str, compiler: CrossCompiler) -> None:
    sources: dict[str, KernelSource] = {}
    for choice in _covering(symbol, ("bf16", "f16"), ARCHS):
        _, call = _call(symbol, str(choice["act"]), str(choice["case"]))
        target = Target.of(str(choice["arch"]), NUM_SMS)
        plan = registry.plan_call(call, target, _point(symbol, choice))
        sources |= {source.identity: source for source in kernel_sources(plan, call, target.arch.name)}
    _assert_compile_and_fit(compiler, sources)


@pytest.mark.parametrize("arch", [a if a in QUICK_ARCHS else pytest.param(a, marks=pytest.mark.slow) for a in ARCHS])
def test_default_points_compile_and_fit(compiler: CrossCompiler, arch: str) -> None:
    """On the first case of every entry point: with the real shapes, test_shipped."""
    sources: dict[str, KernelSource] = {}
    target = Target.of(arch, NUM_SMS)
    for symbol in SYMBOLS:
        _, call = _call(symbol, "bf16", next(iter(_cases(symbol))))
        tuning = registry.gpu_tuning(registry.spec(symbol).op)
        if tuning.refusal(call, tuning.default(call, target), target) is None:
            plan = registry.plan_call(call, target)
            sources |= {source.identity: source for source in kernel_sources(plan, call, arch)}
    assert {source.op for source in sources.values()} == set(registry.ops("gpu"))
    _assert_compile_and_fit(compiler, sources)


def _assert_compile_and_fit(compiler: CrossCompiler, sources: Mapping[str, KernelSource]) -> None:
    wrong = []
    for kernel in compiler.compile(sources.values()).values():
        if not isinstance(kernel, Compiled):
            wrong.append(str(kernel))
        elif (shared := kernel.metadata.shared_bytes) > Target.of(kernel.source.arch, NUM_SMS).arch.max_shared_bytes:
            wrong.append(f"{kernel.source} asks for {shared} bytes of shared memory")
    assert not wrong
