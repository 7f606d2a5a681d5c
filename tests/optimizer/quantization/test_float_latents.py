"""Latent attention in calibration: the float layers, one after the other, are transformers' model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optimizer.importers import open_source
from optimizer.quantization.decoder_layer import DecoderLayer, normed_for_head
from tests.importers.random_models import random_model, save_folder
from tests.runtime.conftest import CONFIGS, moderate

TEXT = torch.randint(0, 203, (90,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_float_layers_are_transformers(name: str, tmp_path: Path) -> None:
    model = moderate(random_model(CONFIGS[name]))
    source = open_source(save_folder(model, tmp_path))
    a = source.architecture
    hidden, observed = source.tensor("embed.weight").float()[TEXT], set()
    for index in range(a.num_layers):
        hidden = DecoderLayer(a, index, source.tensor, len(TEXT))(hidden, lambda group, rows: observed.add(group))
    logits = normed_for_head(a, source.tensor("final_norm.weight").float(), hidden) @ source.tensor("head.weight").float().T
    with torch.inference_mode():
        theirs = model(TEXT[None]).logits[0]
    assert (logits - theirs).abs().max() < 1e-4 * theirs.abs().max()
    # What experts read of their own is seen one by one.
    groups = {group for group in a.linear_shapes() if group.startswith("layers.") and not group.endswith("experts_down")}
    assert groups <= observed
