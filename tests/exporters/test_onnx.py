"""Exported graphs, run by onnxruntime, against the runtime: every family, every scheme, with the cache passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from artifacts.architecture import Architecture
from optimizer.exporters import ExportError, export_bundle
from optimizer.exporters.logical import LogicalBundle
from optimizer.importers import open_source
from optimizer.weights.quantized_store import QuantizedStore
from runtime.models import architecture
from tests.exporters.conftest import TEXT, MakeBundle, our_logits, relative_error, save_bundle, save_gpu_bundle
from tests.runtime.conftest import CONFIGS, Tiny


def is_dense(a: Architecture) -> bool:
    return a.moe is None and a.mla is None and not a.layers_differ


SCHEMES = [
    "fp32",
    "int8",
    "int4-g32-sym",
    "int4-g32-asym",
    "bf16",
    "int8-a8",
    "int4-g32-sym-a8",
    "int4-g32-asym-a8",
]
#: others are refused
DENSE = [name for name, config in CONFIGS.items() if is_dense(architecture(config.to_dict()))]
#: every model and every scheme once, tied and not for integers
CASES = [
    *zip(DENSE, cycle(SCHEMES), strict=False),
    ("qwen3", "int8"),
    ("mistral, tied, yarn", "int4-g32-sym"),
    ("qwen3", "int4-twolevel-a8"),
    ("qwen3", "int3"),
]
Logits = NDArray[np.float32]


class OnnxModel:
    """A graph that onnxruntime has loaded, and the cache between its runs."""

    def __init__(self, folder: Path, architecture: Architecture, batch: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # fp32, as the graph says
        self._model = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        empty = np.zeros((batch, architecture.num_kv_heads, 0, architecture.head_dim), np.float32)
        names = [entry.name for entry in self._model.get_inputs()]
        self._past = {name: empty for name in names if name.startswith("past_key_values.")}
        self._mask = np.zeros((batch, 0), np.int64)

    def run(self, ids: Sequence[Sequence[int]], mask: Sequence[Sequence[int]] | None = None) -> Logits:
        """Logits [batch, sequence, vocab_size] of further tokens; `mask` is 0 where they are padding."""
        added = np.ones_like(np.array(ids)) if mask is None else np.array(mask)
        self._mask = np.concatenate((self._mask, added), axis=1)
        positions = np.maximum(self._mask.cumsum(axis=1) - 1, 0)[:, -added.shape[1] :]
        feeds: dict[str, Any] = {"input_ids": np.array(ids), "attention_mask": self._mask, "position_ids": positions}
        outputs = self._model.run(None, feeds | self._past)
        found = dict(zip((entry.name for entry in self._model.get_outputs()), outputs, strict=True))
        self._past = {name: found[name.replace("past_key_values", "present")] for name in self._past}
        logits: Logits = found["logits"]
        return logits


def export(bundle: Path) -> Path:
    folder = bundle.with_name("exported")
    export_bundle(bundle, "onnx", folder)
    return folder


def opened(bundle: Path, batch: int = 1) -> OnnxModel:
    return OnnxModel(export(bundle), LogicalBundle.open(bundle).architecture, batch)


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_logits_are_the_runtimes(name: str, scheme: str, bundle: MakeBundle) -> None:
    """In chunks of 25, 1 and 14 tokens. Rounding to int8 turns differences of 1e-7 into whole steps, now and then."""
    made = bundle(name, scheme)
    model = opened(made)
    logits = np.concatenate([model.run([chunk])[0] for chunk in (TEXT[:25], TEXT[25:26], TEXT[26:])])
    assert relative_error(our_logits(made), logits) < (0.05 if scheme.endswith("a8") else 1e-4)


@pytest.mark.parametrize(
    ("name", "scheme"), [("llama", "int4-g32-sym"), ("qwen2, tied, window", "int8"), ("qwen3", "int4-g32-asym")]
)
def test_greedy_tokens_are_the_runtimes(name: str, scheme: str, bundle: MakeBundle) -> None:
    check_greedy(bundle(name, scheme), TEXT[:20])


@pytest.mark.slow
def test_greedy_tokens_of_a_real_model(smollm2_gguf: Path, tmp_path: Path) -> None:
    source = open_source(smollm2_gguf)
    model = Tiny(None, source, QuantizedStore(source, tmp_path / "store"))
    schemes = dict.fromkeys(source.architecture.linear_shapes(), "int4-g64-sym") | {"embed": "int8"}
    prompt = Tokenizer.from_str(source.tokenizer_json).encode("The capital of France is").ids
    check_greedy(save_bundle(tmp_path / "bundle", model, schemes), prompt)


def check_greedy(made: Path, prompt: list[int]) -> None:
    """Twelve tokens, each from the cache of those before it, against one pass of ours over all of them."""
    model = opened(made)
    found = [int(model.run([prompt])[0, -1].argmax())]
    while len(found) < 12:
        found.append(int(model.run([found[-1:]])[0, -1].argmax()))
    logits = our_logits(made, [*prompt, *found[:-1]])
    assert logits[len(prompt) - 1 :].argmax(axis=1).tolist() == found


def test_padding_changes_nothing(bundle: MakeBundle) -> None:
    """A batch of two, the shorter text padded on the left, within a window of 16 tokens."""
    made = bundle("qwen2, tied, window", "fp32")
    model = opened(made, batch=2)
    short, padding = TEXT[5:25], 10
    model.run([TEXT[:30], [7] * padding + short], [[1] * 30, [0] * padding + [1] * 20])
    after = model.run([[TEXT[30]], [TEXT[25]]])[:, -1]
    expected = np.stack([our_logits(made, TEXT[:31])[-1], our_logits(made, TEXT[5:26])[-1]])
    assert relative_error(expected, after) < 1e-4


def test_codes_are_the_bundles(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    schemes = dict.fromkeys(tiny("llama").architecture.linear_shapes(), "int8") | {
        "layers.0.qkv": "int4-g32-sym",
        "layers.0.o": "int4-g64-asym",
        "embed": "int4-g32-sym",
    }
    made = bundle("llama", schemes)
    logical = LogicalBundle.open(made)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(export(made) / "model.onnx").graph.initializer}
    for group, offset in (("layers.0.qkv", 8), ("layers.0.o", 0), ("layers.0.down", 0)):
        matrix = logical.matrix(group)
        assert matrix.scales is not None
        np.testing.assert_array_equal(stored[f"{group}.weight"].astype(np.int16).T, matrix.codes.astype(np.int16) - offset)
        np.testing.assert_array_equal(stored[f"{group}.scales"].T, matrix.scales)  # wider, and the same numbers
        if matrix.zeros is not None:
            np.testing.assert_array_equal(stored[f"{group}.zeros"].astype(np.uint8).T, matrix.zeros)
    np.testing.assert_array_equal(stored["embed.weight"].astype(np.int16), logical.matrix("embed").codes.astype(np.int16) - 8)


def test_the_interface(bundle: MakeBundle) -> None:
    """Names and axes as Optimum and onnxruntime-genai have them; weights in a file beside the graph."""
    folder = export(bundle("llama", "int8"))
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    caches = [f"{layer}.{part}" for layer in range(3) for part in ("key", "value")]
    assert {i.name for i in graph.input} == {
        "input_ids", "attention_mask", "position_ids", *(f"past_key_values.{cache}" for cache in caches),
    }  # fmt: skip
    assert [o.name for o in graph.output if o.name != "logits"] == [f"present.{cache}" for cache in caches]
    assert {t.data_location for t in graph.initializer if t.name.startswith("layers.")} == {onnx.TensorProto.EXTERNAL}
    assert (folder / "model.onnx").stat().st_size < 100_000 < (folder / "model.onnx.data").stat().st_size
    assert (folder / "tokenizer.json").exists() and (folder / "export.json").exists()


@pytest.mark.parametrize("scheme", ["fp8", "mxfp4", "nvfp4"])
def test_codes_of_small_floats_are_refused(tiny: Callable[[str], Tiny], tmp_path: Path, scheme: str) -> None:
    groups = dict.fromkeys(tiny("llama").architecture.linear_shapes(), "bf16") | {"layers.0.o": scheme}
    with pytest.raises(ExportError, match=rf"{scheme} layers are codes of small floats.*export as compressed-tensors"):
        export(save_gpu_bundle(tmp_path / "bundle", tiny("llama"), groups))
