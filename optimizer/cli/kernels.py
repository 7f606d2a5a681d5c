"""`coldforge kernels`: what the compiler makes of a GPU's kernels, without one."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import click

from runtime.user_errors import shown_to_user


@click.group()
def kernels() -> None:
    """Look into the kernels."""


@kernels.command()
@click.argument("op")
@click.option("--gpu", "device_name", metavar="NAME", default="h100", show_default=True, help="Device to compile for.")
@click.option("--symbol", "symbols", metavar="SYMBOL", multiple=True, help="Entry points of OP; default: all of them.")
@click.option(
    "--tokens", metavar="N", type=click.IntRange(min=1), multiple=True, help="Tokens of a step; default: 1, 16, 64 and 2048."
)
@click.option("--jobs", metavar="N", type=click.IntRange(min=1), help="Compilers at once; default: one for each core.")
@shown_to_user()
def inspect(op: str, device_name: str, symbols: tuple[str, ...], tokens: tuple[int, ...], jobs: int | None) -> None:
    """Compile OP at its default points and show registers, spills, occupancy and hot loops.

    Calls are those of SmolLM2-135M and Llama-3.1-8B, of DeepSeek-V2-Lite for experts and latent attention. What was compiled
    before is read from the cache.
    """
    from rich.console import Console

    from kernels import registry
    from kernels.compile.cross_compile import CrossCompiler
    from optimizer.cli.kernel_table import inspection_table
    from optimizer.records.progress import Reporter
    from optimizer.tuning.gpu.default_records import default_records
    from optimizer.tuning.gpu.representative import TOKENS
    from search_spaces.space import counted, device, device_names

    _among(op, registry.ops("gpu"), "an op with GPU kernels")
    _, device_name = counted(device_name)  # a kernel is one device's
    _among(device_name, [name for name in device_names() if device(name).arch], "a GPU")
    own = [symbol for symbol, found in registry.specs("gpu").items() if found.op == op]
    for symbol in symbols:
        _among(symbol, own, f"an entry point of {op}")
    with CrossCompiler(jobs=jobs) as compiler:
        found = default_records(symbols or own, device(device_name), tokens or TOKENS, compiler, Reporter())
    console = Console(width=None if Console().is_terminal else 200)
    console.print(inspection_table(found.records))
    for name, reason in found.refused.items():
        click.echo(f"{name}: {reason}", err=True)


def _among(name: str, known: Sequence[str], what: str) -> None:
    """UsageError with the nearest names for one that is not known."""
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise click.UsageError(f"{name!r} is not {what}; nearest: {', '.join(near)}")
