"""A model on the kernels of this CPU with their default constants, and the text that it writes unquantized."""

from __future__ import annotations

from pathlib import Path

from artifacts.precision import Plan, Scheme
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.importers import Source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.records.progress import Reporter
from optimizer.search.texts import Tokens, sample_sequences
from optimizer.weights.quantized_store import QuantizedStore
from runtime.generation_config import eos_token_ids


def untuned(source: Source, work: Path) -> tuple[CpuWorkbench, Plan]:
    """The workbench, whose library and weights lie in `work`, and the unquantized plan."""
    library = Library(build({}, work / "kernels.so", best_isa(host())))
    bench = CpuWorkbench(source.architecture, QuantizedStore(source, work / "weights"), "fp32", 32, library, host().num_cores)
    return bench, dict.fromkeys(source.architecture.linear_shapes(), Scheme("fp32"))


def own_text(
    source: Source, bench: CpuWorkbench, exact: Plan, num_sequences: int, num_tokens: int, together: int, reporter: Reporter
) -> list[Tokens]:
    """Sequences that the model writes, `together` of them at once, from its first token on."""
    start = source.generation_config.get("bos_token_id", [*eos_token_ids(source.generation_config), 0][0])
    writer = bench.runner(exact, 64, together * (num_tokens + bench.kv_block_size), together)
    return sample_sequences(writer, start, range(num_sequences), num_tokens, reporter)
