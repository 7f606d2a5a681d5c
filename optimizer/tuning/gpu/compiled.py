"""Static records of the kernels that tuning compiles, each taken once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from kernels.compile.cross_compile import Compiled, CrossCompiler, KernelCompileFailed
from kernels.compile.static_record import KernelBinary, StaticRecord, static_records
from kernels.gpu.frozen import FrozenKernel, FrozenKernels
from kernels.gpu.kernel_source import KernelSource
from optimizer.records.progress import Reporter

#: a record, or why there is no kernel
Known: TypeAlias = StaticRecord | KernelCompileFailed


class CompiledKernels:
    """Compiles sources in batches and disassembles what is new."""

    def __init__(self, compiler: CrossCompiler, reporter: Reporter) -> None:
        self._compiler, self._reporter = compiler, reporter
        self._known: dict[str, Known] = {}

    def records(self, sources: Sequence[KernelSource]) -> Mapping[str, Known]:
        """Identity -> record of every source."""
        wanted = {source.identity: source for source in sources if source.identity not in self._known}
        if wanted:
            with self._reporter.task("compiling GPU kernels", len(wanted)) as advance:
                compiled = self._compiler.compile(wanted.values(), advance)
            kernels = {identity: kernel for identity, kernel in compiled.items() if isinstance(kernel, Compiled)}
            records = static_records([binary_of(kernel) for kernel in kernels.values()])
            self._known |= {k: v for k, v in compiled.items() if isinstance(v, KernelCompileFailed)}
            self._known |= dict(zip(kernels, records, strict=True))
        return {source.identity: self._known[source.identity] for source in sources}

    def frozen(self, sources: Sequence[KernelSource]) -> FrozenKernels:
        """The kernels of sources that compiled, as a launcher takes them."""
        compiled = self._compiler.compile(sources).values()
        kernels = [kernel for kernel in compiled if isinstance(kernel, Compiled)]
        return FrozenKernels(sources[0].arch, [FrozenKernel(k.source, k.metadata, k.image) for k in kernels])


def binary_of(kernel: Compiled) -> KernelBinary:
    """What `static_records` reads: SASS of a cubin, or the assembly that AMD's compiler kept."""
    metadata, listing = kernel.metadata, kernel.folder / "amdgcn"
    image = listing.read_text(encoding="utf-8") if listing.exists() else kernel.image
    return KernelBinary(image, kernel.source.arch, metadata.num_warps, metadata.shared_bytes)
