"""Which product of a graph is which projection of a layer: by what flows into it, from the caches' outputs on.

What layer I adds to its cache says which products are its keys and values. The one that reads both is its output; what that
reads beside them is its queries. What reads the residual stream behind a layer's output is its gate and up, or the head; what
reads those alone is down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from optimizer.importers.errors import UnsupportedGraph
from optimizer.importers.onnx_decoder.graph import PASSING, OnnxFile, named
from optimizer.importers.onnx_decoder.linears import TOKENS, Linear, Lookup, check_ops, linears, lookup

LOGITS = "logits"
_PRESENT = re.compile(r"present(?:_key_values)?\.(\d+)\.key")
#: nodes that keep keys and values apart: output -> the inputs that it has the values of
_CACHING = {"GroupQueryAttention": {1: (1, 3), 2: (2, 4)}, "Attention": {1: (1, 4), 2: (2, 5)}}
_MEASURES = ("Shape", "Size")


@dataclass(frozen=True)
class Decoder:
    """A graph's products by layer group: q, k, v and gate, up in this order, or joined."""

    embed: Lookup
    groups: dict[str, tuple[Linear, ...]]
    num_layers: int

    @property
    def all(self) -> list[Linear]:
        return [linear for joined in self.groups.values() for linear in joined]


def find_roles(file: OnnxFile) -> Decoder:
    """Raises UnsupportedGraph for what is no decoder with a KV cache, and for a product that has no place in one."""
    check_ops(file)
    embed, products = lookup(file), {linear.makes: linear for linear in linears(file)}
    outputs = [output.name for output in file.model.graph.output]
    layers = sorted(int(found[1]) for name in outputs if (found := _PRESENT.fullmatch(name)))
    inputs = [entry.name for entry in file.model.graph.input]
    if LOGITS not in outputs or TOKENS not in inputs or not layers or layers != list(range(len(layers))):
        raise UnsupportedGraph(
            f"{file.path} must be a decoder with its KV cache: inputs {TOKENS} and past_key_values.I.key, outputs {LOGITS} and "
            "present.I.key; export it for text generation with past"
        )
    flow = _Flow(file, products, embed.makes)
    groups: dict[str, tuple[Linear, ...]] = {}
    outs: dict[str, int] = {}
    for layer in layers:
        joined = flow.attention(layer)
        groups[f"layers.{layer}.qkv"] = joined
        out = flow.reader_of(layer, joined)
        groups[f"layers.{layer}.o"] = (out,)
        outs[out.makes] = layer
    used = {linear.makes for found in groups.values() for linear in found}
    rest = [linear for linear in products.values() if linear.makes not in used]
    (head,) = _one(flow.of(LOGITS), "logits", products, file)
    gates: dict[int, list[Linear]] = {layer: [] for layer in layers}
    layer_of: dict[str, int] = {}
    for linear in rest:
        if linear.makes != head.makes and embed.makes in flow.of(linear.reads):
            layer = max((outs[value] for value in flow.of(linear.reads) if value in outs), default=-1)
            if layer < 0 or len(gates[layer]) == 2:
                raise _no_place(linear)
            gates[layer].append(linear)
            layer_of[linear.makes] = layer
    for layer in layers:
        groups[f"layers.{layer}.gate_up"] = _gate_first(file, gates[layer])
    for linear in rest:
        if linear.makes != head.makes and linear.makes not in layer_of:
            read = {layer_of.get(value) for value in flow.of(linear.reads)}
            (layer_found,) = read if len(read) == 1 else {None}
            if layer_found is None or f"layers.{layer_found}.down" in groups:
                raise _no_place(linear)
            groups[f"layers.{layer_found}.down"] = (linear,)
    for layer in layers:
        if not groups[f"layers.{layer}.gate_up"] or f"layers.{layer}.down" not in groups:
            raise UnsupportedGraph(
                f"{file.path}: layer {layer} must have a gated feed-forward network; it has no such products"
            )
    return Decoder(embed, groups | {"head": (head,)}, len(layers))


def _no_place(linear: Linear) -> UnsupportedGraph:
    return UnsupportedGraph(f"{named(linear.node)} has no place in a decoder of attention and gated feed-forward networks")


def _one(values: Iterable[str], what: str, products: dict[str, Linear], file: OnnxFile) -> tuple[Linear, ...]:
    found = tuple(products[value] for value in values if value in products)
    if len(found) != 1 or len(found) != len(set(values)):
        raise UnsupportedGraph(f"{file.path}: {what} must be made of one product with stored weights, got {len(found)}")
    return found


def _gate_first(file: OnnxFile, found: Sequence[Linear]) -> tuple[Linear, ...]:
    """Up is multiplied by what the activation makes of gate, and has no other reader."""
    if len(found) == 2:
        first = [reader.op_type for reader in _beyond_passing(file, found[0].makes)]
        if first == ["Mul"]:
            return found[1], found[0]
    return tuple(found)


def _beyond_passing(file: OnnxFile, value: str) -> list[onnx.NodeProto]:
    return [
        further
        for reader in file.readers[value]
        for further in (_beyond_passing(file, reader.output[0]) if reader.op_type in PASSING else [reader])
    ]


class _Flow:
    """Of which products, or of the embedding, a value is made: the nearest ones upstream."""

    def __init__(self, file: OnnxFile, products: dict[str, Linear], embedding: str) -> None:
        self._file, self._products = file, products
        cuts = {*products, embedding}
        self._made_of: dict[str, frozenset[str]] = {}
        for node in file.model.graph.node:
            caching = _CACHING.get(node.op_type, {})
            for index, output in enumerate(node.output):
                if not output:
                    continue
                if output in cuts:
                    self._made_of[output] = frozenset((output,))
                    continue
                inputs: Sequence[str] = () if node.op_type in _MEASURES else node.input
                if index in caching and all(place < len(inputs) and inputs[place] for place in caching[index]):
                    inputs = [inputs[place] for place in caching[index]]
                self._made_of[output] = frozenset[str]().union(*(self.of(value) for value in inputs))

    def of(self, value: str) -> frozenset[str]:
        return self._made_of.get(value, frozenset())

    def attention(self, layer: int) -> tuple[Linear, ...]:
        """q, k, v of `layer`, or the one that makes all three."""
        found: list[Linear] = []
        for part in ("key", "value"):
            names = (f"present.{layer}.{part}", f"present_key_values.{layer}.{part}")
            made_of = self.of(next(name for name in names if name in self._made_of) if self._has(names) else names[0])
            found += _one(made_of, names[0], self._products, self._file)
        k, v = found
        if k.makes == v.makes:
            return (k,)
        both = {k.makes, v.makes}
        read = self._smallest(linear for linear in self._products.values() if both <= self.of(linear.reads))
        (q,) = _one([] if read is None else self.of(read.reads) - both, f"queries of layer {layer}", self._products, self._file)
        return q, k, v

    def reader_of(self, layer: int, joined: tuple[Linear, ...]) -> Linear:
        """The product that reads all of `joined`."""
        values = {linear.makes for linear in joined}
        found = self._smallest(linear for linear in self._products.values() if values <= self.of(linear.reads))
        if found is None:
            raise UnsupportedGraph(f"{self._file.path}: nothing multiplies what attention of layer {layer} makes")
        return found

    def _has(self, names: Iterable[str]) -> bool:
        return any(name in self._made_of for name in names)

    def _smallest(self, found: Iterable[Linear]) -> Linear | None:
        return min(found, key=lambda linear: len(self.of(linear.reads)), default=None)
