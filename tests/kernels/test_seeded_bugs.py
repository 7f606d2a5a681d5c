"""The tolerance has teeth: small, typical mistakes exceed it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kernels import registry
from kernels.cpu.library import Library
from kernels.spec import Arguments
from tests.kernels.accuracy import copied, make, violations


def _drop_last_k(arguments: Arguments) -> None:
    arguments["x"][:, -1] = 0  # type: ignore[index]


def _zero_point_off_by_one(arguments: Arguments) -> None:
    arguments["zeros"] = arguments["zeros"] ^ np.uint8(1)  # type: ignore[operator]


def _half_precision_input(arguments: Arguments) -> None:
    arguments["x"] = arguments["x"].astype(np.float16).astype(np.float32)  # type: ignore[union-attr]


def _half_precision_scale(arguments: Arguments) -> None:
    arguments["scale"] = arguments["scale"].astype(np.float16).astype(np.float32)  # type: ignore[union-attr]


def _window_off_by_one(arguments: Arguments) -> None:
    arguments["window"] = arguments["window"] + 1  # type: ignore[operator]


def _larger_scale(arguments: Arguments) -> None:
    arguments["scale"] = arguments["scale"] * 1.02  # type: ignore[operator]


def _larger_cap(arguments: Arguments) -> None:
    arguments["softcap"] = arguments["softcap"] * 1.05  # type: ignore[operator]


def _no_sinks(arguments: Arguments) -> None:
    arguments["sinks"] = np.full_like(arguments["sinks"], -1e9)  # type: ignore[arg-type]


def _a_sink_counts_twice(arguments: Arguments) -> None:
    arguments["sinks"] = arguments["sinks"] + np.float32(np.log(2))  # type: ignore[operator]


def _sinks_of_other_heads(arguments: Arguments) -> None:
    arguments["sinks"] = np.roll(np.asarray(arguments["sinks"]), 1)


def _one_token_short(arguments: Arguments) -> None:
    arguments["seq_lens"] = arguments["seq_lens"] - np.int32(1)  # type: ignore[operator]


def _larger_epsilon(arguments: Arguments) -> None:
    arguments["eps"] = 1.001e-5


def _wrong_slot(arguments: Arguments) -> None:
    arguments["slot_mapping"] = np.where(arguments["slot_mapping"] < 0, 0, arguments["slot_mapping"])  # type: ignore[operator]


def _an_expert_has_another_ones_row(arguments: Arguments) -> None:
    offsets = np.asarray(arguments["offsets"]).copy()
    first_end = offsets[offsets > 0][0]
    offsets[offsets == first_end] += 1
    arguments["offsets"] = offsets


def _not_normalized(arguments: Arguments) -> None:
    arguments["renormalize"] = 0


def _all_groups(arguments: Arguments) -> None:
    arguments["topk_groups"] = arguments["num_groups"]


def _no_bias(arguments: Arguments) -> None:
    arguments["bias"] = np.zeros_like(arguments["bias"])  # type: ignore[arg-type]


def _bias_of_another_expert(arguments: Arguments) -> None:
    arguments["bias"] = np.roll(np.asarray(arguments["bias"]), 1, axis=0)


def _larger_limit(arguments: Arguments) -> None:
    arguments["limit"] = arguments["limit"] * 1.02  # type: ignore[operator]


def _usual_slope(arguments: Arguments) -> None:
    arguments["slope"] = 1.0


def _another_place(arguments: Arguments) -> None:
    arguments["places"] = np.asarray(arguments["places"])[::-1].copy()


def _half_precision_weights(arguments: Arguments) -> None:
    arguments["topk_weights"] = arguments["topk_weights"].astype(np.float16).astype(np.float32)  # type: ignore[union-attr]


def _another_expert(arguments: Arguments) -> None:
    np.asarray(arguments["topk_ids"])[0, 0] ^= 1


def _ranks_turned_round(arguments: Arguments) -> None:
    arguments["ranks"] = np.asarray(arguments["ranks"])[::-1].copy()


def _scales_of_other_experts(arguments: Arguments) -> None:
    arguments["expert_scales"] = np.roll(np.asarray(arguments["expert_scales"]), 1)


def _rows_turned_round(arguments: Arguments) -> None:
    arguments["rows"] = np.asarray(arguments["rows"])[::-1].copy()


def _pairs_are_halves(arguments: Arguments) -> None:
    q, pairs = np.asarray(arguments["q"]), np.asarray(arguments["cos"]).shape[1]
    q[:, :, -2 * pairs :] = q[:, :, -2 * pairs :].reshape(*q.shape[:2], pairs, 2).swapaxes(2, 3).reshape(*q.shape[:2], -1)


def _turned_backwards(arguments: Arguments) -> None:
    arguments["sin"] = -np.asarray(arguments["sin"])


def _latents_of_another_block(arguments: Arguments) -> None:
    arguments["block_tables"] = np.asarray(arguments["block_tables"])[:, ::-1].copy()


def _a_heads_matrix_turned_round(arguments: Arguments) -> None:
    arguments["weight"] = np.asarray(arguments["weight"])[::-1].copy()


@pytest.mark.parametrize(
    ("symbol", "case", "bug"),
    [
        ("quant_matmul_fp32", "prefill", _drop_last_k),
        ("quant_matmul_fp32", "decode", _half_precision_input),
        ("quant_matmul_int4_asym", "decode", _zero_point_off_by_one),
        ("paged_attention_fp32", "window", _window_off_by_one),
        ("paged_attention_bf16", "prefill", _one_token_short),
        ("paged_attention_bf16", "window", _window_off_by_one),
        ("paged_attention_bf16", "prefill", _larger_scale),
        ("rms_norm", "epsilon_matters", _larger_epsilon),
        ("rms_norm", "heads", _half_precision_input),
        ("silu_and_mul", "some", _half_precision_input),
        ("gelu_and_mul", "some", _half_precision_input),
        ("clamped_silu_and_mul", "some", _half_precision_input),
        ("clamped_silu_and_mul", "some", _larger_limit),
        ("clamped_silu_and_mul", "one", _usual_slope),
        ("softcap", "small", _half_precision_input),
        ("scaled_add", "some", _half_precision_input),
        ("scaled_sum", "some", _half_precision_input),
        ("scaled_sum", "alone", _half_precision_scale),
        ("gelu_gate", "some", _half_precision_input),
        ("silu_gate", "some", _half_precision_input),
        ("clamped_silu_gate", "some", _larger_limit),
        ("rope", "grouped", _turned_backwards),
        ("paged_attention_capped_fp32", "decode", _larger_cap),
        ("paged_attention_capped_bf16", "prefill", _larger_cap),
        ("paged_attention_sinks_fp32", "mixed", _no_sinks),
        ("paged_attention_sinks_int8", "decode", _a_sink_counts_twice),
        ("paged_attention_sinks_bf16", "long_decode", _a_sink_counts_twice),
        ("paged_attention_sinks_bf16", "prefill", _sinks_of_other_heads),
        ("paged_attention_sinks_fp32", "long_window", _larger_cap),
        ("rope_and_cache_bf16", "grouped", _wrong_slot),
        ("quant_matmul_experts_fp32", "prefill", _an_expert_has_another_ones_row),
        ("quant_matmul_experts_int4_asym_a8", "decode", _an_expert_has_another_ones_row),
        ("quant_matmul_experts_int4_asym", "prefill", _zero_point_off_by_one),
        ("quant_matmul_experts_fp32", "decode", _half_precision_input),
        ("quant_matmul_experts_fp32", "decode", _bias_of_another_expert),
        ("quant_matmul_experts_int8_a8", "prefill", _bias_of_another_expert),
        ("moe_route_softmax", "renormalized", _not_normalized),
        ("moe_route_softmax", "grouped", _all_groups),
        ("moe_route_softmax_scaled", "renormalized", _scales_of_other_experts),
        ("moe_route_softmax_scaled", "odd_groups", _scales_of_other_experts),
        ("moe_route_softmax_scaled", "grouped", _all_groups),
        ("moe_route_sigmoid", "odd_groups", _all_groups),
        ("moe_route_sigmoid", "odd_experts", _no_bias),
        ("moe_sort", "many", _another_expert),
        ("moe_sort_ranked", "many", _another_expert),
        ("moe_sort_ranked", "decode", _ranks_turned_round),
        ("moe_sum", "shared", _another_place),
        ("moe_sum", "wide", _half_precision_weights),
        ("gather_rows_a8", "some", _rows_turned_round),
        ("rope_and_cache_latent_fp32", "some", _pairs_are_halves),
        ("rope_and_cache_latent_bf16", "odd", _turned_backwards),
        ("rope_and_cache_latent_bf16", "some", _wrong_slot),
        ("paged_attention_latent_fp32", "decode", _one_token_short),
        ("paged_attention_latent_bf16", "prefill", _one_token_short),
        ("paged_attention_latent_bf16", "mixed", _latents_of_another_block),
        ("paged_attention_latent_bf16", "long_decode", _larger_scale),
        ("head_matmul", "absorb", _a_heads_matrix_turned_round),
        ("head_matmul", "prefill", _half_precision_input),
    ],
)
def test_bug_is_caught(library: Library, symbol: str, case: str, bug: Callable[[Arguments], None]) -> None:
    spec = registry.spec(symbol)
    inputs = make(spec, next(c for c in spec.cases if c.name == case))
    outputs = copied(inputs)
    bug(outputs)
    library.call(symbol, outputs)
    assert violations(spec, inputs, outputs)
