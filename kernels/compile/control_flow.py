"""The loops of a kernel: natural loops of its control-flow graph.

A branch back is not yet a loop: compilers move the slow path of a wait behind the end of the code and jump back from there.
So a loop here is what compilers call one: an edge to a block that dominates its source, with all blocks that reach the source
without passing that header (Aho, Lam, Sethi, Ullman, *Compilers*, section 9.6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernels.compile.instructions import Instruction, UnreadableCode


@dataclass(frozen=True)
class NaturalLoop:
    """`depth` is 1 for an outermost loop; `own` are its instructions that are in no loop nested in it, in order."""

    header: int
    depth: int
    own: tuple[Instruction, ...]


@dataclass(frozen=True)
class _Graph:
    """Basic blocks: [first, last) ranges of instructions, and the blocks that each may go on to."""

    ranges: Sequence[tuple[int, int]]
    successors: Sequence[tuple[int, ...]]


def natural_loops(code: Sequence[Instruction]) -> tuple[NaturalLoop, ...]:
    """The loops of `code`, whose first instruction is its entry, in order of their headers.

    Loops with one header are one. Raises UnreadableCode for a branch to an address where no instruction is.
    """
    if not code:
        return ()
    graph = _graph(code)
    order = _reverse_postorder(graph)
    predecessors: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for successor in graph.successors[block]:
            predecessors[successor].append(block)
    bodies: dict[int, set[int]] = {}
    for block, dominated_by in _dominators(order, predecessors).items():
        for header in dominated_by.intersection(graph.successors[block]):
            bodies.setdefault(header, {header}).update(_reaching(block, header, predecessors))
    return tuple(_loop(code, graph, bodies, header) for header in sorted(bodies))


def _loop(code: Sequence[Instruction], graph: _Graph, bodies: dict[int, set[int]], header: int) -> NaturalLoop:
    body = bodies[header]
    nested = set[int]().union(*(other for inner, other in bodies.items() if inner != header and inner in body))
    own = tuple(instruction for block in sorted(body - nested) for instruction in code[slice(*graph.ranges[block])])
    depth = sum(header in other for other in bodies.values())
    return NaturalLoop(code[graph.ranges[header][0]].address, depth, own)


def _graph(code: Sequence[Instruction]) -> _Graph:
    index_of = {instruction.address: index for index, instruction in enumerate(code)}
    leaders = {0}
    for index, instruction in enumerate(code):
        for target in instruction.targets:
            if target not in index_of:
                raise UnreadableCode(f"a branch goes to an instruction; {instruction.form} goes to {target:#x}, where none is")
            leaders.add(index_of[target])
        if (instruction.targets or not instruction.continues) and index + 1 < len(code):
            leaders.add(index + 1)
    firsts = sorted(leaders)
    ranges = list(zip(firsts, [*firsts[1:], len(code)], strict=True))
    block_at = {first: block for block, first in enumerate(firsts)}
    successors = []
    for _, end in ranges:
        last = code[end - 1]
        following = [block_at[index_of[target]] for target in last.targets]
        if last.continues and end < len(code):
            following.append(block_at[end])
        successors.append(tuple(dict.fromkeys(following)))
    return _Graph(ranges, successors)


def _dominators(order: Sequence[int], predecessors: Mapping[int, Sequence[int]]) -> dict[int, set[int]]:
    """Reachable block -> the blocks on every path to it from block 0, itself among them."""
    dominators = {block: set(order) for block in order}
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            common = set.intersection(*(dominators[before] for before in predecessors[block])) | {block}
            if common != dominators[block]:
                dominators[block], changed = common, True
    return dominators


def _reverse_postorder(graph: _Graph) -> list[int]:
    """The blocks that can be reached from block 0, most of them after all of their predecessors."""
    order: list[int] = []
    seen = {0}
    stack = [(0, iter(graph.successors[0]))]
    while stack:
        block, following = stack[-1]
        for successor in following:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(graph.successors[successor])))
                break
        else:
            order.append(block)
            stack.pop()
    return order[::-1]


def _reaching(block: int, header: int, predecessors: Mapping[int, Sequence[int]]) -> set[int]:
    """The blocks from which `block` can be reached without passing `header`; `block` too."""
    found = {block} - {header}
    pending = list(found)
    while pending:
        for before in predecessors[pending.pop()]:
            if before != header and before not in found:
                found.add(before)
                pending.append(before)
    return found
