"""The faults, as data: what is wrong, where it is put in, and what stops it. docs/decisions/0021 has the same table.

Each is what a plausible mistake gives: shapes, types and hashes are right unless the fault is about them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from artifacts.weights import Array
from optimizer.evaluation import BaselineStore
from tests.faults.bench import Draft
from tests.faults.injections import (
    Inject,
    Parts,
    batched,
    damaged,
    described,
    exchanged,
    items_file,
    mutated_kernel,
    rewired,
    rows_moved,
    stored,
    tensor,
    text_file,
    tokenizer,
    without,
)


@dataclass(frozen=True)
class Fault:
    name: str
    inject: Inject
    stopped_by: str
    """A typed error, or the metric of the gate that is missed; one of several, `or` between."""
    is_slow: bool = False


def _nibbles_exchanged(parts: Parts) -> Parts:
    """Of each eight codes, the first four stand where the last four belong."""
    codes = parts["codes"]
    return {"codes": codes.reshape(len(codes), -1, 2, 4)[:, :, ::-1].reshape(codes.shape)}


def _largest_column_dropped(parts: Parts) -> Parts:
    codes = parts["codes"].copy()
    centred = codes.astype(np.float32) - (8 if codes.dtype == np.uint8 else 0)
    steps = np.repeat(parts["scales"].astype(np.float32), codes.shape[1] // parts["scales"].shape[1], axis=1)
    codes[:, np.square(centred * steps).sum(axis=0).argmax()] = 8 if codes.dtype == np.uint8 else 0
    return {"codes": codes}


def _wrapped(parts: Parts) -> Parts:
    """Scaled by 96 / 127 without clamping: what is above 127 wraps around."""
    return {
        "codes": np.round(parts["codes"].astype(np.float32) * (127 / 96)).astype(np.int32).astype(np.int8),
        "scales": parts["scales"] * np.float32(96 / 127),
    }


def _interleaved_heads(num_rows: int) -> Array:
    """Rows of q and k as checkpoints for interleaved rotation have them: pairs side by side. Heads of 16; 4 q, 2 k, 2 v."""
    pairs = np.arange(16).reshape(2, 8).T.reshape(-1)
    rotated = (np.arange(6)[:, None] * 16 + pairs).reshape(-1)
    return np.concatenate([rotated, np.arange(96, num_rows)])


def _key_before_query(num_rows: int) -> Array:
    return np.concatenate([np.arange(64), np.arange(96, num_rows), np.arange(64, 96)])


def _flipped_byte(folder: Path) -> None:
    path = next((folder / "weights").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _cut_weights(folder: Path) -> None:
    path = next((folder / "weights").iterdir())
    path.write_bytes(path.read_bytes()[:-64])


def _logits_of_another_model(draft: Draft, _: pytest.MonkeyPatch, folder: Path) -> None:
    """The cache of logits was made before the checkpoint was trained to prefer other tokens."""
    store = draft.judge.stores["sampled"]
    sequences = draft.judge.sets["sampled"]
    logits = np.concatenate([store.logits(i) for i in range(len(sequences))])
    stale = logits + 2 * np.random.default_rng(0).standard_normal(logits.shape[1], np.float32)
    np.save(folder / "stale.npy", stale)
    draft.judge = replace(draft.judge, stores={"sampled": BaselineStore(folder / "stale.npy", sequences)})


def _logits_of_fewer_tokens(draft: Draft, _: pytest.MonkeyPatch, folder: Path) -> None:
    store = draft.judge.stores["sampled"]
    np.save(folder / "cut.npy", store.logits(0))
    draft.damages.append(lambda _: BaselineStore(folder / "cut.npy", draft.judge.sets["sampled"]) and None)


def _fewer_sequences(draft: Draft, _: pytest.MonkeyPatch, __: Path) -> None:
    draft.judge = replace(draft.judge, sets={"sampled": draft.judge.sets["sampled"][:3]})


#: of faults that cost as little as a gate may allow: then what is left is that they are not what was proved
_SMALL = "kl or NotAsProvenError"
_TEMPLATE = "chat_template.jinja"

#: what may happen to a bundle between its proof and its publication, or be in it
IN_BUNDLE = (
    # Stored weights
    Fault("scales off by one group", stored("layers.1.down", lambda p: {"scales": np.roll(p["scales"], 1, axis=1)}), "kl"),
    Fault("scales off by one row", stored("layers.1.qkv", lambda p: {"scales": np.roll(p["scales"], 1)}), _SMALL),
    Fault("zero points transposed", stored("layers.0.qkv", lambda p: {"zeros": p["zeros"].T.reshape(p["zeros"].shape)}), "kl"),
    Fault("zero points lost", stored("layers.0.qkv", lambda p: {"zeros": np.full_like(p["zeros"], 8)}), "kl"),
    Fault(
        "zero points off by one",
        stored("layers.0.gate_up", lambda p: {"zeros": p["zeros"] - (p["zeros"] > 0)}),
        _SMALL,
    ),
    Fault("halves of a word exchanged", stored("layers.0.down", _nibbles_exchanged), "kl"),
    Fault("codes wrap where they should saturate", stored("layers.0.o", _wrapped), "kl"),
    Fault("outlier channel dropped", stored("layers.1.down", _largest_column_dropped), _SMALL),
    Fault("codes taken for unsigned", stored("layers.1.qkv", lambda p: {"codes": np.abs(p["codes"])}), _SMALL),
    Fault("layers swapped", exchanged("layers.0.down", "layers.1.down"), "kl"),
    Fault("gate and up swapped", rows_moved("layers.0.gate_up", lambda n: np.roll(np.arange(n), n // 2)), "kl"),
    Fault("values before keys", rows_moved("layers.1.qkv", _key_before_query), "kl"),
    Fault("rows of interleaved rotation", rows_moved("layers.0.qkv", _interleaved_heads), "kl"),
    Fault("head off by one token", rows_moved("head", lambda n: np.roll(np.arange(n), 1)), "kl"),
    Fault(
        "head tied to the embedding",
        lambda d, _, __: d.tensors.update({f"head.{p}": d.tensors[f"embed.{p}"] for p in ("codes", "scales")}),
        "kl",
    ),
    Fault("gain left out", tensor("layers.0.mlp_norm.weight", np.ones_like), _SMALL),
    Fault("gain folded twice", tensor("final_norm.weight", np.square), "kl"),
    Fault(
        "fp16 scale overflows",
        tensor("layers.0.down.scales", lambda s: np.where(s == s.max(), np.float16(np.inf), s)),
        "NonFiniteLogitsError",
    ),
    Fault("a group has no scales", without("layers.0.o.scales"), "WeightsError"),
    Fault("scales stored as fp32", tensor("layers.0.down.scales", lambda s: s.astype(np.float32)), "WeightsError"),
    # The manifest
    Fault("RoPE theta of another model", described("architecture", "rope", "theta", value=500_000.0), "kl"),
    Fault("RoPE scaled where it is not", described("architecture", "rope", value={"scaling": "linear", "factor": 2.0}), "kl"),
    Fault("sliding window where there is none", described("architecture", "layer_windows", value=[3, 3]), "kl"),
    Fault("epsilon of another model", described("architecture", "rms_norm_eps", value=1e-2), "kl"),
    Fault("another group size", described("precision", "groups", "layers.0.down", value="int4-g64-sym"), "WeightsError"),
    Fault(
        "symmetric taken for asymmetric",
        described("precision", "groups", "layers.0.down", value="int4-g32-asym"),
        "WeightsError",
    ),
    Fault("a layer has no scheme", lambda d, _, __: d.description["precision"]["groups"].pop("layers.1.o"), "ValidationError"),
    # Files
    Fault("BOS twice in the template", text_file(_TEMPLATE, lambda t: "<s>" + t), "exact"),
    Fault("BOS lost from the template", text_file(_TEMPLATE, lambda t: t.removeprefix("<s>")), "exact"),
    Fault(
        "template of another model", text_file(_TEMPLATE, lambda t: t.replace("<|{{ m.role }}|>", "[{{ m.role }}]")), "exact"
    ),
    Fault("template strips messages", text_file(_TEMPLATE, lambda t: t.replace("m.content", "m.content | trim")), "exact"),
    Fault("template without generation prompt", text_file(_TEMPLATE, lambda t: t.removesuffix("<|assistant|>")), "exact"),
    Fault("tokenizer adds no BOS", tokenizer(lambda t: t.update(post_processor=None)), "exact"),
    Fault("tokenizer splits a special token", tokenizer(lambda t: t["added_tokens"].pop(2)), "exact"),
    Fault("tokenizer lower-cases", tokenizer(lambda t: t.update(normalizer={"type": "Lowercase"})), "exact"),
    Fault("tokenizer normalizes", tokenizer(lambda t: t.update(normalizer={"type": "NFKC"})), "exact"),
    Fault(
        "end of sequence of another model",
        text_file("generation_config.json", lambda t: t.replace('"eos_token_id": 1', '"eos_token_id": 2')),
        "NotAsProvenError",
    ),
    Fault("a byte flipped in the weights", damaged(_flipped_byte), "HashMismatchError"),
    Fault("weights cut short", damaged(_cut_weights), "SizeMismatchError"),
    Fault("library is no library", lambda d, _, __: d.files.update({"kernels/cpu.so": b"\x7fELF cut"}), "LibraryRefused"),
    # The step program
    Fault("scores scaled by head_dim", rewired("layers.0.attention", scale=lambda _: 16**-1.0), "kl"),
    Fault(
        "stale KV scales",
        rewired("layers.1.attention", k_scales=lambda c: c["layers.0.rope"].arguments["k_scales"]),
        _SMALL,
    ),
    Fault(
        "value scales are the keys'",
        rewired("layers.0.attention", v_scales=lambda c: c["layers.0.rope"].arguments["k_scales"]),
        "kl",
    ),
    Fault(
        "layers share a cache", rewired("layers.1.attention", v_cache=lambda c: c["layers.0.rope"].arguments["v_cache"]), _SMALL
    ),
    Fault("residual lost", rewired("layers.1.attn_norm", residual=lambda _: None), "kl"),
    Fault(
        "norm reads another layer's gain",
        rewired("layers.1.mlp_norm", weight=lambda c: c["layers.0.mlp_norm"].arguments["weight"]),
        _SMALL,
    ),
    Fault("positions begin again in each step", batched(lambda b, s: replace(b, positions=b.positions - s.start)), "kl"),
    Fault("cache written one slot late", batched(lambda b, s: replace(b, slot_mapping=b.slot_mapping + 1)), _SMALL),
    Fault("blocks of a table reversed", batched(lambda b, s: replace(b, block_tables=b.block_tables[:, ::-1].copy())), "kl"),
    # Kernels
    Fault("kernel: sign of the sigmoid", mutated_kernel("silu_and_mul", "exp(zero() - gate)", "exp(gate)"), "kl"),
    Fault("kernel: residual not kept", mutated_kernel("rms_norm", "store(residual + d, v);", ""), "kl"),
    Fault(
        "kernel: a value scale in a key's place",
        mutated_kernel("rope_and_cache", "v_scale = a->v_scales", "v_scale = a->k_scales"),
        "kl",
    ),
    Fault(
        "kernel: KV codes saturate",
        mutated_kernel("rope_and_cache", "return Scaled{chosen.inverse};", "return Scaled{chosen.inverse * 1.25f};"),
        "kl",
    ),
    Fault(
        "kernel: a block that is used again keeps its KV scales",
        mutated_kernel("rope_and_cache", "*scale = chosen.scale;", "if (*scale == 0) *scale = chosen.scale;"),
        "kl",
    ),
    Fault(
        "kernel: a tile reads another's scales",
        mutated_kernel("quant_matmul", "scale[v] = w.scale(tile + v, group);", "scale[v] = w.scale(tile, group);"),
        "kl",
        True,
    ),
    Fault(
        "kernel: causal mask off by one",
        mutated_kernel("paged_attention", "last = item.last(row) - at;", "last = item.last(row) + 1 - at;"),
        _SMALL,
        True,
    ),
    Fault(
        "kernel: running sum not rescaled",
        mutated_kernel("paged_attention", "fma(before.sum[at + r], old[r], ", "(before.sum[at + r] + "),
        "kl",
        True,
    ),
)

#: in what judges
IN_JUDGING = (
    Fault("set of items cut in a line", items_file(lambda lines: "".join(lines)[:-20]), "UserError"),
    Fault("set of items cut between lines", items_file(lambda lines: "".join(lines[:5])), "acc_norm, inconclusive"),
    Fault(
        "answers beyond the choices",
        items_file(lambda lines: "".join(lines).replace('"answer": 1', '"answer": 2')),
        "UserError",
    ),
    Fault("set of items empty", items_file(lambda lines: ""), "UserError"),
    Fault("text cut to three sequences", _fewer_sequences, "UserError"),
    Fault("baseline's logits are another model's", _logits_of_another_model, "kl"),
    Fault("baseline's logits cut", _logits_of_fewer_tokens, "UserError"),
)

FAULTS = (*IN_BUNDLE, *IN_JUDGING)

#: In the fp8 casts of the weights, emulated as for a GPU: what the largest magnitude is taken to be, of 448.
FP8_RANGES = {"range of e5m2, so that casts saturate": 57344.0, "scales eight times too small": 3584.0}
