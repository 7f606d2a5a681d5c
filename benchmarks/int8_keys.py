"""KL of int8 KV caches that code keys in other ways, against the same model in transformers with nothing rounded.

    python -m benchmarks.int8_keys --model MODEL --text wikitext2_valid.txt [--sequences 4] [--tokens 96] [--only WORDS]
        [--out FILE]

Simulated in fp32: keys and values are rounded as a cache would keep them, nothing else. Offsets by channel are the mean rotated
key of other sequences of the text. Values are int8 with a scale for each token and head throughout. Decision 0028 reads these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.held_out import spaced, whole_text
from benchmarks.kv_cache import transformers_model
from optimizer.evaluation.metrics import compare
from optimizer.importers import open_source

Coding = Callable[[Tensor, int], Tensor]


def symmetric(x: Tensor) -> Tensor:
    """Codes and a scale for each token and head, decoded: x [..., D]."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round() * scale


def asymmetric(x: Tensor) -> Tensor:
    """Codes, a scale and a zero point for each token and head, decoded."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale = (high - low) / 255
    return ((x - low) / scale).round() * scale + low


class CodedCache(DynamicCache):
    """Keeps what `coding` (key [batch, heads, tokens, D], layer) leaves of keys; looks at them as they are with `seen`."""

    def __init__(self, coding: Coding, seen: list[Tensor] | None = None) -> None:
        super().__init__()
        self._coding, self._seen = coding, seen

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *rest: Any, **more: Any) -> Any:
        if self._seen is not None:
            self._seen.append(key_states)
            return super().update(key_states, value_states, layer_idx, *rest, **more)
        coded = self._coding(key_states, layer_idx)
        return super().update(coded, symmetric(value_states), layer_idx, *rest, **more)


def rotated_biases(model: PreTrainedModel, num_tokens: int) -> list[Tensor]:
    """Of each layer, the bias of its keys as rope turns it at each position: [heads, num_tokens, D]."""
    inner = model.model
    cos, sin = inner.rotary_emb(torch.zeros(1), torch.arange(num_tokens)[None])
    found = []
    for layer in inner.layers:
        bias = layer.self_attn.k_proj.bias.view(-1, 1, cos.shape[-1])
        first, second = bias.chunk(2, dim=-1)
        found.append(bias * cos[0] + torch.cat([-second, first], dim=-1) * sin[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--only", default="", help="ways of coding whose name has this in it")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    source = open_source(options.model)
    model = transformers_model(options.model, source)
    chosen = spaced(whole_text(options.text, source.tokenizer_json, options.tokens), 2 * options.sequences)
    calibration, sequences = (torch.tensor(chosen[part::2]) for part in (0, 1))

    def logits(ids: Tensor, coding: Coding, seen: list[Tensor] | None = None) -> Tensor:
        with torch.inference_mode():
            return model(ids, past_key_values=CodedCache(coding, seen), use_cache=True).logits

    keys: list[Tensor] = []
    logits(calibration, lambda key, layer: key, keys)
    means = [key.mean(dim=(0, 2), keepdim=True) for key in keys]
    biases = rotated_biases(model, options.tokens)
    averages = [bias.mean(dim=1, keepdim=True) for bias in rotated_biases(model, 1024)]
    codings: dict[str, Coding] = {
        "fp32 keys": lambda key, layer: key,
        "a scale for each token and head": lambda key, layer: symmetric(key),
        "and a zero point": lambda key, layer: asymmetric(key),
        "less the mean rotated bias of 1024 positions, as shipped": lambda key, layer: (
            symmetric(key - averages[layer]) + averages[layer]
        ),
        "less the mean rotated key of each channel": lambda key, layer: symmetric(key - means[layer]) + means[layer],
        "less the rotated bias of each position": lambda key, layer: symmetric(key - biases[layer]) + biases[layer],
    }
    # Nothing is coded where keys are only looked at.
    exact = logits(sequences, lambda key, layer: key, [])
    results = json.loads(options.out.read_text())["kl"] if options.out and options.out.exists() else {}
    for name, coding in codings.items():
        if options.only not in name:
            continue
        results[name] = _kl(sequences.tolist(), exact, logits(sequences, coding))
        print(f"{name}: {results[name]}", flush=True)
    if options.out:
        command = f"python -m benchmarks.int8_keys --model {options.model.name} --text {options.text.name}"
        command += f" --sequences {options.sequences} --tokens {options.tokens}"
        options.out.write_text(json.dumps({"command": command, "kl": results}, indent=2) + "\n")


def _kl(sequences: Sequence[list[int]], exact: Tensor, candidate: Tensor) -> dict[str, float]:
    scores = [compare(ids, exact[i].numpy(), candidate[i].numpy()) for i, ids in enumerate(sequences)]
    each = [score.kl / score.num_tokens for score in scores]
    return {"kl": sum(each) / len(each), "worst": max(each)}


if __name__ == "__main__":
    main()
