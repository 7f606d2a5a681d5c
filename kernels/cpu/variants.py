"""One library with several variants of ops, side by side: whoever binds a program chooses among them by pointer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels import registry
from kernels.cpu.build import HEADERS, Unit, lay_out_op, lay_out_program, lay_out_sources, link, resolve_constants
from kernels.cpu.host import host
from kernels.cpu.isa import Isa
from kernels.cpu.library import variants_of

Constants = Mapping[str, int]


@dataclass(frozen=True)
class Variants:
    """Of one op: sets of constants (those left out keep their defaults), and the entry points that are there for each."""

    constants: Sequence[Constants]
    symbols: Sequence[str]


def build_variants(
    ops: Mapping[str, Variants],
    fixed: Constants,
    out: Path,
    isa: Isa,
    cache: Path | None = None,
    on_compiled: Callable[[], object] = lambda: None,
) -> Path:
    """Builds a library with variants of `ops`, and all other ops once, with the constants `fixed`, into `out`.

    Code that variants have in common is compiled once; the entry points are shared out over sources that all cores compile.
    `on_compiled` is called after each of `num_variant_units`. Raises as `kernels.cpu.build.build` does.
    """
    resolved = resolve_constants(fixed, isa)
    macros = {op: [resolve_constants(constants, isa) for constants in variants.constants] for op, variants in ops.items()}

    def lay_out(root: Path) -> list[Unit]:
        units = [lay_out_program(root, isa), *(lay_out_op(root, op, resolved) for op in registry.ops() if op not in ops)]
        for op, variants in ops.items():
            includes = (*lay_out_sources(root, op), f"{op}/cpu.cpp")
            for index, symbols in enumerate(_dealt(variants.symbols)):
                name = f"{op}/variants_{index}.cpp"
                (root / name).write_text(_source(op, macros[op], symbols))
                units.append(Unit(name, includes))
        return units

    return link(lay_out, out, isa, cache, on_compiled)


def num_variant_units(ops: Mapping[str, Variants]) -> int:
    """How many sources `build_variants` compiles."""
    return 1 + len(registry.ops()) - len(ops) + sum(len(_dealt(variants.symbols)) for variants in ops.values())


def _dealt(symbols: Sequence[str]) -> list[list[str]]:
    """`symbols` for as many sources as keep all cores busy to the end, though some take longer than others."""
    hands = min(2 * host().num_cores, len(symbols))
    return [list(symbols[index::hands]) for index in range(hands)]


def _source(op: str, variants: Sequence[Constants], symbols: Sequence[str]) -> str:
    """The op's source once for each variant, in a namespace of its own, and tables of pointers to `symbols` in all of them.

    What is not asked for by a table has internal linkage, and is not compiled. Headers come first: from within a namespace
    they include nothing any more. They may not depend on the constants.
    """
    source, *headers = registry.sources(op)
    standard = re.findall(r"^#include <.*>$", source.read_text(), re.MULTILINE)
    lines = [*standard, *(f'#include "../cpu/{name}"' for name in HEADERS), '#include "args.h"']
    lines += [f'#include "{path.name}"' for path in headers]
    names = sorted(registry.tunings()[op].values)
    for index, constants in enumerate(variants):
        lines += [f"#define {name} {constants[name]}" for name in names]
        lines += [f"namespace {{ namespace variant_{index} {{", '#include "cpu.cpp"', "} }"]
        lines += [f"#undef {name}" for name in names]
    for symbol in symbols:
        pointers = ", ".join(f"variant_{index}::{symbol}" for index in range(len(variants)))
        lines.append(
            f'extern "C" __attribute__((visibility("default"))) decltype(&{symbol}) const {variants_of(symbol)}[];\n'
            f"decltype(&{symbol}) const {variants_of(symbol)}[] = {{{pointers}}};"
        )
    return "\n".join([*lines, ""])
