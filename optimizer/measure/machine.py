"""What measurements on this machine's CPU hold for."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.cpu.build import NoCompiler, find_compiler, sources_digest
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa


@dataclass(frozen=True)
class Machine:
    """One machine, one compiler, one version of the kernels. `compiler` is None where there is none."""

    compiler: str | None
    isa: str
    sources: str
    """sha256 of the kernels' sources."""
    model: str
    num_cores: int

    @property
    def numbers(self) -> tuple[str | None, ...]:
        """The part that decides what kernels compute; the rest decides how fast."""
        return self.compiler, self.isa, self.sources


def this_machine() -> Machine:
    """The machine that this process runs on."""
    try:
        compiler = find_compiler().version
    except NoCompiler:
        compiler = None
    return Machine(compiler, best_isa(host()).name, sources_digest(), host().model, host().num_cores)
