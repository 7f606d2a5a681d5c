"""What measurements on this machine's CPU hold for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from kernels.cpu.build import NoCompiler, compiler_flags, find_compiler, sources_digest
from kernels.cpu.cores import cpu_quota
from kernels.cpu.host import host
from kernels.cpu.isa import Isa, best_isa

_ABSENT = "none"


@dataclass(frozen=True)
class Machine:
    """One machine, one compiler, one version of the kernels, each part as text; "none" for what is not there."""

    compiler: str
    compiler_flags: str
    isa: str
    kernel_sources: str
    """sha256 of the kernels' sources."""
    cpu_model: str
    cpu_flags: str
    """sha256 of the CPU's features."""
    microcode: str
    num_cores: str
    cpu_quota: str
    """Cores' worth of time that control groups grant."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The part that decides what kernels compute; the rest decides how fast."""
        return self.compiler, self.compiler_flags, self.isa, self.kernel_sources

    def fingerprint(self) -> dict[str, str]:
        """Its parts by name."""
        return asdict(self)

    @classmethod
    def of_fingerprint(cls, fingerprint: Mapping[str, str]) -> Machine:
        """The machine that `fingerprint`, which may have more parts, was taken on. KeyError if one is missing."""
        return cls(**{name: fingerprint[name] for name in cls.__dataclass_fields__})


def this_machine(isa: Isa | None = None) -> Machine:
    """The machine that this process runs on, with kernels for `isa`, else for the best that it has."""
    try:
        compiler = find_compiler().version
    except NoCompiler:
        compiler = _ABSENT
    here, quota = host(), cpu_quota()
    isa = isa or best_isa(here)
    return Machine(
        compiler=compiler,
        compiler_flags=" ".join(compiler_flags(isa)),
        isa=isa.name,
        kernel_sources=sources_digest(),
        cpu_model=here.model,
        cpu_flags=hashlib.sha256(" ".join(sorted(here.flags)).encode()).hexdigest(),
        microcode=here.microcode or _ABSENT,
        num_cores=str(here.num_cores),
        cpu_quota=_ABSENT if quota is None else f"{quota:g}",
    )
