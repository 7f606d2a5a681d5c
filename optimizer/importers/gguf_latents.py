"""Latent attention (DeepSeek's) in GGUF files, as llama.cpp's deepseek2 reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimizer.importers.errors import DamagedFile
from optimizer.importers.gguf_families import GgufFamily
from runtime.models import UnsupportedModel

#: A tenth of mscale_all_dim, of which mscale is taken to be another name: rotations are not scaled, scores are by its square.
YARN_LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"


def latent_config(path: object, keys: Mapping[str, Any], family: GgufFamily) -> dict[str, object]:
    """What config.json says of heads. A file says what is cached of a token, and sizes of a head beside it, unless it is old.

    Raises DamagedFile, and UnsupportedModel for what llama.cpp computes otherwise than the family.
    """
    needed = ("attention.kv_lora_rank", "rope.dimension_count", "attention.key_length", "attention.value_length")
    if missing := [f"{family.architecture}.{key}" for key in needed if key not in keys]:
        raise DamagedFile(f"{path} lacks the metadata {', '.join(missing)}")
    if keys.get("rope.scaling.type") == "yarn" and not keys.get(YARN_LOG_MULTIPLIER):
        raise UnsupportedModel(
            f"{path} has yarn without {YARN_LOG_MULTIPLIER}, under which llama.cpp scales all scores and the family does not"
        )
    if keys.get("expert_group_count", 1) > 1 and not family.sigmoid:
        raise UnsupportedModel(
            f"{path} has expert_group_count = {keys['expert_group_count']} with a softmax: llama.cpp chooses groups by the sum "
            "of their two best experts, and the family by the best one"
        )
    head_dim = keys.get("attention.key_length_mla", keys["attention.key_length"])
    return {
        "num_key_value_heads": None,
        "qk_nope_head_dim": head_dim - keys["rope.dimension_count"],
        "v_head_dim": keys.get("attention.value_length_mla", keys["attention.value_length"]),
    }
