"""Where does the tile that a GPU was measured to like best stand in our analytical ranking?

    python benchmarks/ranker_agreement.py FOLDER [--out benchmarks/results/NAME.json]

FOLDER holds vLLM's tuned files (unpack a wheel). For every tuned problem the grid is ranked with no measurement, and the place
of the winner is noted. The grid is BLOCK_M {16..256} x BLOCK_N {32..256} x BLOCK_K {64, 128} x warps {4, 8} x stages {2..5}:
320 tiles. On AMD, whose tuner keeps 2 stages and tries other blocks and warps, it is BLOCK_M {16..256} x BLOCK_N {16..256} x
BLOCK_K {64, 128, 256} x warps {1..8}: 300 tiles. GROUP_M is ignored. Winners outside the grid are counted: `inside` leaves
them out, `all` holds them for missed. Beside it stand chance and a roofline (tensor peak, bytes without reuse, whole waves).
The files for H100 are split into those that constants were fitted on and those held out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from hashlib import md5
from itertools import product
from pathlib import Path

from tuned_files import Tuned, read_tuned

from optimizer.cost.gpu import GpuFacts, MatmulProblem, Tile, gpu_facts, rank
from optimizer.cost.gpu.problem import BYTES
from search_spaces.space import device

KS = (1, 2, 4, 8, 16, 20, 40, 80, 160, 320)
_NVIDIA = [Tile(*t) for t in product((16, 32, 64, 128, 256), (32, 64, 128, 256), (64, 128), (4, 8), (2, 3, 4, 5))]
_AMD = [Tile(*t) for t in product((16, 32, 64, 128, 256), (16, 32, 64, 128, 256), (64, 128, 256), (1, 2, 4, 8), (2,))]
Ranker = Callable[[Sequence[MatmulProblem], Sequence[Tile], GpuFacts], list[Tile]]


@cache
def facts(name: str) -> GpuFacts:
    return gpu_facts(device(name))


def grid(name: str) -> list[Tile]:
    return _AMD if facts(name).is_amd else _NVIDIA


def fitted_files(winners: Iterable[Tuned]) -> set[str]:
    """The files that constants may be fitted on: of each family for H100, two of three in the order of a hash."""
    families: defaultdict[str, set[str]] = defaultdict(set)
    for tuned in winners:
        if tuned.device == "h100":
            families[tuned.family].add(tuned.file)
    by_hash = {family: sorted(files, key=lambda file: md5(file.encode()).hexdigest()) for family, files in families.items()}
    return {file for files in by_hash.values() for index, file in enumerate(files) if index % 3 != 2}


def ours(problems: Sequence[MatmulProblem], tiles: Sequence[Tile], gpu: GpuFacts) -> list[Tile]:
    return [ranked.tile for ranked in rank(problems, tiles, gpu)]


def roofline(problems: Sequence[MatmulProblem], tiles: Sequence[Tile], gpu: GpuFacts) -> list[Tile]:
    """The naive ranker: peak rate, every block's operands from memory, whole waves of one block per SM."""

    def us(tile: Tile) -> float:
        total = 0.0
        for problem in problems:
            programs = problem.row_blocks(tile.block_m) * math.ceil(problem.n / tile.block_n)
            waves = math.ceil(programs / gpu.num_sms)
            flops = 2 * tile.block_m * tile.block_n * problem.k
            loads = (tile.block_m * BYTES[problem.a] + tile.block_n * BYTES[problem.b]) * problem.k
            per_sm = gpu.memory_bandwidth_gbps * 1e3 / gpu.num_sms
            rate = gpu.flops_per_clock[gpu.computes(problem.a)] * gpu.clock_ghz * 1e3
            total += waves * max(flops / rate, loads / per_sm)
        return total

    return sorted(tiles, key=us)


def place(tuned: Tuned, ranker: Ranker) -> int | None:
    """1 for the first; None for a winner outside the grid."""
    tiles = grid(tuned.device)
    return ranker(tuned.problems, tiles, facts(tuned.device)).index(tuned.winner) + 1 if tuned.winner in tiles else None


def curve(places: Iterable[int | None]) -> dict[str, object]:
    everything = list(places)
    inside = [found for found in everything if found is not None]

    def percent(count: int, of: int) -> float | None:
        return round(100 * count / of, 1) if of else None

    return {
        "num_winners": len(everything),
        "num_outside_grid": len(everything) - len(inside),
        "inside": {str(k): percent(sum(found <= k for found in inside), len(inside)) for k in KS},
        "all": {str(k): percent(sum(found <= k for found in inside), len(everything)) for k in KS},
    }


def groups(tuned: Tuned, fitted: set[str]) -> list[str]:
    names = [f"{tuned.device}", f"{tuned.device}, {tuned.family}"]
    if tuned.device == "h100":
        part = "fitted" if tuned.file in fitted else "held out"
        names += [f"h100 {part}", f"h100 {part}, {tuned.family}"]
    return names


def agreement(winners: Sequence[Tuned], ranker: Ranker) -> dict[str, dict[str, object]]:
    places: defaultdict[str, list[int | None]] = defaultdict(list)
    fitted = fitted_files(winners)
    for tuned in winners:
        found = place(tuned, ranker)
        for name in groups(tuned, fitted):
            places[name].append(found)
    return {name: curve(places[name]) for name in sorted(places)}


def table(ours_by: Mapping[str, dict[str, object]], other: Mapping[str, dict[str, object]]) -> str:
    lines = ["| | winners | outside | " + " | ".join(f"top {k}" for k in KS[:-1]) + " | roofline: top 8 | top 40 |"]
    lines.append("| --- |" + " ---: |" * (len(KS) + 3))
    for name, found in ours_by.items():
        inside, naive = found["inside"], other[name]["inside"]
        assert isinstance(inside, dict) and isinstance(naive, dict)
        cells = [*(inside[str(k)] for k in KS[:-1]), naive["8"], naive["40"]]
        shown = " | ".join("" if cell is None else f"{cell:.0f}" for cell in cells)
        lines.append(f"| {name} | {found['num_winners']} | {found['num_outside_grid']} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    winners = read_tuned(arguments.folder)
    if not winners:
        raise SystemExit(f"no tuned files under {arguments.folder}; unpack a vLLM wheel there")
    analytical, naive = agreement(winners, ours), agreement(winners, roofline)
    print(table(analytical, naive))
    if arguments.out:
        sizes = {"nvidia": len(_NVIDIA), "amd": len(_AMD)}
        chance = {vendor: {str(k): round(100 * min(k / size, 1), 1) for k in KS} for vendor, size in sizes.items()}
        result = {"grid_sizes": sizes, "chance": chance, "analytical": analytical, "roofline": naive}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
