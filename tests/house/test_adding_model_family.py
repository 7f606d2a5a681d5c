"""docs/adding.md, "A model family": followed on a toy, which says Mistral's config in words of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import PositiveInt

from artifacts.architecture import Architecture
from kernels.reference import ReferenceProgram
from optimizer.importers import open_source
from optimizer.weights.quantized_store import QuantizedStore
from runtime.model_runner import ProgramRunner
from runtime.models import FAMILIES, architecture
from runtime.models.hf_config import HfConfig
from runtime.network import Activation, network
from runtime.scoring import score
from tests.house.recipes import files_of
from tests.house.test_words import ROOT
from tests.importers.random_models import CONFIGS, random_model, save_folder
from tests.runtime.conftest import Tiny, limits

BUILDERS = (
    "runtime/decoder.py",
    "runtime/gpu/builder.py",
    "optimizer/quantization/decoder_layer.py",
    "optimizer/exporters/onnx_model.py",
)
TEXT = list(range(3, 60))


class ToyConfig(HfConfig):
    """Step 1: a key of its own, with transformers' default."""

    window_of_every_layer: PositiveInt = 16

    def layer_windows(self) -> tuple[int, ...]:
        return (self.window_of_every_layer,) * self.num_hidden_layers


def test_a_toy_family_is_a_config_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, laid out and run: the tokens are those of Mistral, which says the same in other words."""
    monkeypatch.setitem(FAMILIES, "toy", ToyConfig)
    model = random_model(CONFIGS["mistral"]).eval()
    folder = save_folder(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    window = config.pop("sliding_window")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "toy", "window_of_every_layer": window}))

    source = open_source(folder)
    assert source.architecture.family == "toy" and source.architecture.layer_windows == (window,) * 3
    toy = Tiny(model, source, QuantizedStore(source, tmp_path / "store"))
    step = toy.step("fp32", limits(max_num_seqs=1, max_num_batched_tokens=64))
    logits = score(ProgramRunner(step, ReferenceProgram(step.program)), TEXT)
    with torch.inference_mode():
        theirs = model(torch.tensor([TEXT])).logits[0].numpy()
    assert abs(logits - theirs).max() < 1e-4 * abs(theirs).max()


class WrittenExtras:
    def norm_without_gain(self, name: str, x: str, eps: float) -> str:
        return f"norm({x})"

    def rows(self, group: str) -> str:
        return group

    def shares(self, x: str, width: int) -> str:
        return x

    def share(self, x: str, index: int) -> str:
        return f"({x})[{index}]"

    def add(self, x: str, more: str, factor: float) -> str:
        return f"{x} + {factor:g} {more}"

    def gated_by(self, name: str, gate: str, x: str, activation: Activation) -> str:
        return f"{activation.name}({gate}) {x}"

    def times(self, stream: str, factor: float) -> str:
        return f"{factor:g} {stream}"

    def scale(self, name: str, stream: str) -> str:
        return f"{name} ({stream})"

    def settled(self, stream: str) -> str:
        return stream


class Written:
    """A builder whose values are the text of the formula that made them."""

    latents = mixtures = None

    def __init__(self) -> None:
        self.logits, self.extras = "", WrittenExtras()

    def embed(self) -> str:
        return "x"

    def norm(self, name: str, stream: str, readers: tuple[str, ...], eps: float) -> str:
        return f"{name}({stream})"

    norm_in_place = norm

    def read(self, stream: str) -> str:
        return stream

    def linear(self, group: str, x: str) -> str:
        return f"{group}({x})"

    def split(self, qkv: str, sizes: tuple[int, ...]) -> tuple[str, ...]:
        return (f"q {qkv}", "k", "v")[: len(sizes)]

    def heads(self, x: str, head_dim: int) -> str:
        return x

    def attend(self, layer: int, q: str, k: str | None, v: str | None, scale: float, window: int, softcap: float) -> str:
        return f"attend({q}, {k}, {v}, {scale:g}, {window}, {softcap:g})"

    def gated(self, name: str, gate_up: str, reader: str, activation: Activation) -> str:
        return f"{activation.name}({gate_up})"

    def join(self, stream: str, branch: str, factor: float) -> str:
        return f"{stream} + {branch}" if factor == 1 else f"{stream} + {factor:g} {branch}"

    def gather(self, x: str) -> str:
        return x

    def head(self, group: str, x: str, softcap: float) -> None:
        self.logits = f"{group}({x}, {softcap:g})"


def written(described: Architecture) -> str:
    build = Written()
    network(described.model_copy(update={"num_layers": 1}), build)
    return build.logits.replace("layers.0.", "")


def test_what_a_family_computes_stands_in_the_network() -> None:
    stream = "x + o(attend(q qkv(attn_norm(x)), k, v, 0.25, 24, 0))"
    mistral = f"head(final_norm({stream} + down(silu(gate_up(mlp_norm({stream}))))), 0)"
    described = architecture(CONFIGS["mistral"].to_dict())
    assert written(described) == mistral
    stream = "x + attn_post_norm(o(attend(q qkv(attn_norm(x)), k, v, 0.25, 24, 5)))"
    gemma2 = f"embed(final_norm({stream} + mlp_post_norm(down(gelu(gate_up(mlp_norm({stream})))))), 30)"
    changed = {"post_norms": True, "activation": "gelu", "attention_softcap": 5.0, "logit_softcap": 30.0}
    assert written(described.model_copy(update={**changed, "tie_embeddings": True})) == gemma2
    stream = "x + 0.125 o(attend(q qkv(attn_norm(x)), k, v, 0.25, 24, 0))"
    granite = f"head(final_norm({stream} + 0.125 down(silu(gate_up(mlp_norm({stream}))))), 0)"
    assert written(described.model_copy(update={"embedding_scale": 4.0, "branch_scale": 0.5})) == granite
    stream = "x + attn_post_norm(o(attend(q_norm(q qkv(x)), k_norm(k), v, 0.25, 24, 0)))"
    olmo2 = f"head(final_norm({stream} + mlp_post_norm(down(silu(gate_up({stream}))))), 0)"
    changed = {"pre_norms": False, "post_norms": True, "qk_norm": True, "qk_norm_of_all_heads": True}
    assert written(described.model_copy(update=changed)) == olmo2
    stream = "4 x + o(attend(q qkv(attn_norm(4 x)), k, norm(k), 0.25, 24, 0))"
    stream = f"{stream} + down(silu(gate_up(mlp_norm({stream}))))"
    inputs = "(per_layer_norm(per_layer_model_projection(4 x)) + 2 embed_per_layer)[0]"
    branch = f"per_layer_projection(silu(per_layer_input_gate({stream})) {inputs})"
    gemma4 = f"head(final_norm(scalar ({stream} + per_layer_post_norm({branch}))), 0)"
    changed = {"embedding_factor": 4.0, "per_layer_size": 8, "value_norm": True, "layer_scalars": True}
    shape = described.layer_shape(0).model_copy(update={"keys_are_values": True})
    assert written(described.model_copy(update={**changed, "layer_shapes": (shape,)})) == gemma4


@pytest.mark.parametrize("path", BUILDERS)
def test_no_builder_knows_the_order_of_a_layer(path: str) -> None:
    """Nor which model it builds: a norm is a name to it, and a family a word that it never meets."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not [word for word in ("attn_norm", "mlp_norm", "post_norm", "a.family") if word in text]


def test_the_recipe_names_the_files_that_the_worked_example_touched() -> None:
    named = files_of("A model family")
    assert [name.replace("NAME", "gemma2") for name in named] == [
        "runtime/models/gemma2.py",
        "runtime/models/registry.py",
        "runtime/models/checkpoint_tensors.py",
        "artifacts/architecture.py",
        "runtime/network.py",
    ]
