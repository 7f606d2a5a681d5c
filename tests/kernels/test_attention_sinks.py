"""The references of attention with sinks, in fp64, against transformers' attention of gpt-oss."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from kernels import registry
from kernels.reference import views
from tests.kernels.accuracy import make, truth


@pytest.mark.parametrize("case", ["decode", "mixed", "window"])
def test_reference_is_the_attention_of_transformers(case: str) -> None:
    spec = registry.spec("paged_attention_sinks_fp32")
    found = next(c for c in spec.cases if c.name == case)
    inputs = make(spec, found)
    ours = torch.from_numpy(truth(spec, inputs, torch.float64)["out"])
    given = {name: value.double() if value.is_floating_point() else value for name, value in tensors(inputs).items()}
    module = SimpleNamespace(num_key_value_groups=given["q"].shape[1] // given["k_cache"].shape[1], training=False)
    module.sinks = given["sinks"]
    for s, length in enumerate(given["seq_lens"].tolist()):
        start, end = given["cu_seqlens_q"][s : s + 2].tolist()
        blocks = given["block_tables"][s, : -(-length // given["k_cache"].shape[3])]
        k = given["k_cache"][blocks].permute(1, 0, 3, 2).flatten(1, 2)[None, :, :length]
        v = given["v_cache"][blocks].transpose(0, 1).flatten(1, 2)[None, :, :length]
        visible = sliding_window_causal_mask_function(found.sizes["window"] or 1000)
        seen = visible(0, 0, torch.arange(length - (end - start), length)[:, None], torch.arange(length)[None, :])
        mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, float("-inf"))
        q = given["q"][start:end].transpose(0, 1)[None]
        expected, _ = eager_attention_forward(module, q, k, v, mask, scaling=float(inputs["scale"]))  # type: ignore[arg-type]
        torch.testing.assert_close(ours[start:end], expected[0], rtol=1e-12, atol=1e-12)


def tensors(inputs: object) -> dict[str, torch.Tensor]:
    found = views("paged_attention_sinks_fp32", inputs)  # type: ignore[arg-type]
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
