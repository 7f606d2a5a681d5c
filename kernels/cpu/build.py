"""Compiles the kernels into one shared library that is the same to the byte wherever it is built from the same inputs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kernels import registry
from kernels.cpu.abi import ABI_VERSION, header
from kernels.cpu.host import host
from kernels.cpu.isa import Isa
from kernels.refusal import Refusal

_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-ffp-contract=off", "-fno-math-errno",
          "-fno-trapping-math", "-Wall", "-Wextra")  # fmt: skip
_LINK_FLAGS = ("-shared", "-pthread", "-s", "-Wl,--build-id=none", "-static-libstdc++", "-static-libgcc")
HEADERS = ("exp.h", "int8.h", "integers.h", "team.h", "tiles.h", "vec.h", "waiting.h", "weights.h")


class NoCompiler(Refusal):
    """This machine has no C++ compiler."""


class CompileFailed(Refusal):
    """The compiler refused a source; the message ends with what it said."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command and what it calls itself."""

    command: str
    version: str


def find_compiler() -> Compiler:
    """$CXX, g++ or clang++, the first that runs; NoCompiler says what to do where there is none."""
    chosen = os.environ.get("CXX")
    for command in [chosen] if chosen else ["g++", "clang++"]:
        if shutil.which(command):
            shown = subprocess.run([command, "--version"], capture_output=True, text=True)
            if shown.returncode == 0 and shown.stdout:
                return Compiler(command, shown.stdout.splitlines()[0])
    raise NoCompiler(
        f"no C++ compiler: {'CXX=' + chosen + ' does not run' if chosen else 'neither g++ nor clang++ runs'}; install one "
        "(Debian: apt-get install g++), or name one in CXX"
    )


def default_cache() -> Path:
    """Where compiled objects are kept: $XDG_CACHE_HOME/coldforge/objects."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coldforge" / "objects"


def resolve_constants(constants: Mapping[str, int], isa: Isa) -> dict[str, int]:
    """Every tunable constant with its value: the defaults of `isa`, changed by `constants`.

    Refusal on a name that no op has, a value it cannot take, or a combination that is not legal.
    """
    tunings = registry.tunings()
    known = {name for tuning in tunings.values() for name in tuning.values}
    if unknown := sorted(constants.keys() - known):
        raise Refusal(f"no op has the constant {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return {name: value for op in sorted(tunings) for name, value in sorted(tunings[op].checked(constants, isa).items())}


def sources_digest() -> str:
    """sha256 of every source that a library is built from, generated headers aside."""
    digest = hashlib.sha256()
    folder = registry.ROOT / "cpu"
    shared = [folder / "program.cpp", *(folder / name for name in HEADERS)]
    for path in [*shared, *(path for op in registry.ops() for path in registry.sources(op))]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def compiler_flags(isa: Isa) -> tuple[str, ...]:
    """What every source is compiled with for `isa`."""
    return (*_FLAGS, *isa.compiler_flags)


def num_units() -> int:
    """How many sources `build` compiles."""
    return len(registry.ops()) + 1


def build(
    constants: Mapping[str, int],
    out: Path,
    isa: Isa,
    cache: Path | None = None,
    on_compiled: Callable[[], object] = lambda: None,
) -> Path:
    """Builds the library of every op for `isa` with `constants` (those left out keep their defaults) into `out`.

    An op is compiled again only if its source, its flags, its own constants or the compiler changed: objects are kept in
    `cache`. `on_compiled` is called after each source, from any thread. Raises NoCompiler, CompileFailed, and Refusal
    as `resolve_constants` does.
    """
    resolved = resolve_constants(constants, isa)

    def lay_out(root: Path) -> list[Unit]:
        return [lay_out_program(root, isa), *(lay_out_op(root, op, resolved) for op in registry.ops())]

    return link(lay_out, out, isa, cache, on_compiled)


@dataclass(frozen=True)
class Unit:
    """A source laid out for the compiler: its path from the root of the temporary tree, and what it includes."""

    source: str
    includes: tuple[str, ...]


def link(
    lay_out: Callable[[Path], Sequence[Unit]],
    out: Path,
    isa: Isa,
    cache: Path | None,
    on_compiled: Callable[[], object],
) -> Path:
    """Builds the units that `lay_out` writes into a folder, on all cores, into the library `out`; raises as `build` does."""
    compiler = find_compiler()
    cache = cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        units = lay_out(root)
        for name in HEADERS:
            shutil.copyfile(registry.ROOT / "cpu" / name, root / "cpu" / name)

        def compiled(unit: Unit) -> str:
            made = _compile(compiler, root, unit, isa, cache)
            on_compiled()
            return made

        # What is long to compile comes first, so that no core is left with it at the end.
        longest_first = sorted(
            units, key=lambda unit: -sum((root / name).stat().st_size for name in (unit.source, *unit.includes))
        )
        with ThreadPoolExecutor(host().num_cores) as pool:
            objects = dict(zip(longest_first, pool.map(compiled, longest_first), strict=True))
        _run([compiler.command, *_LINK_FLAGS, "-o", "kernels.so", *(objects[unit] for unit in units)], root)
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".partial")
        shutil.copyfile(root / "kernels.so", partial)
        partial.replace(out)
    return out


def lay_out_program(root: Path, isa: Isa) -> Unit:
    """The team of threads that runs programs."""
    folder = root / "cpu"
    folder.mkdir()
    shutil.copyfile(registry.ROOT / "cpu" / "program.cpp", folder / "program.cpp")
    (folder / "library.h").write_text(
        "#pragma once\n#include <cstdint>\n"
        f"#define CF_ABI_VERSION {ABI_VERSION}\n"
        f'#define CF_CPU_FLAGS "{" ".join(isa.cpu_flags)}"\n'
        '#define CF_ENTRY extern "C" __attribute__((visibility("default")))\n'
    )
    return Unit("cpu/program.cpp", ("cpu/library.h", *(f"cpu/{name}" for name in HEADERS)))


def lay_out_op(root: Path, op: str, constants: Mapping[str, int]) -> Unit:
    """An op with its constants of `constants`."""
    includes = lay_out_sources(root, op)
    tuning = registry.tunings().get(op)
    macros = [f"#define {name} {constants[name]}\n" for name in sorted(tuning.values)] if tuning else []
    with (root / op / "args.h").open("a") as file:
        file.writelines(macros)
    return Unit(f"{op}/cpu.cpp", includes)


def lay_out_sources(root: Path, op: str) -> tuple[str, ...]:
    """An op's sources and the structs of its entry points, without its constants; what its `cpu.cpp` includes."""
    folder = root / op
    folder.mkdir()
    sources = registry.sources(op)
    for path in sources:
        shutil.copyfile(path, folder / path.name)
    structs = header(spec for spec in registry.specs().values() if spec.op == op)
    (folder / "args.h").write_text(structs + "\n")
    headers = [path.name for path in sources if path.suffix == ".h"]
    return (*(f"{op}/{name}" for name in [*headers, "args.h"]), *(f"cpu/{name}" for name in HEADERS))


def _compile(compiler: Compiler, root: Path, unit: Unit, isa: Isa, cache: Path) -> str:
    """Compiles one source, or takes its object from the cache; the object's path from `root`."""
    flags = compiler_flags(isa)
    key = hashlib.sha256("\0".join([compiler.version, host().machine, *flags, unit.source]).encode())
    for name in (unit.source, *unit.includes):
        key.update(hashlib.sha256((root / name).read_bytes()).digest())
    made = unit.source.removesuffix(".cpp") + ".o"
    kept = cache / f"{key.hexdigest()}.o"
    if kept.exists():
        shutil.copyfile(kept, root / made)
        return made
    _run([compiler.command, *flags, "-c", unit.source, "-o", made], root)
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as partial:
        partial.write((root / made).read_bytes())
    Path(partial.name).replace(kept)
    return made


def _run(command: list[str], folder: Path) -> None:
    """Runs a command by relative names inside `folder`, so that no path gets into what it makes."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise CompileFailed(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stderr}")
