"""A bundle of ours with one scheme throughout, by `optimize` itself over a search space of that scheme alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from artifacts.precision import Scheme
from optimizer.run.command import Overrides, run_optimize

#: as many sequences as the works ask for; how many tokens in a step is measured
_SERVING = {"max_num_seqs": [32], "max_num_batched_tokens": [512, 256, 128]}
#: the works' batch; the KV cache gets room for two of them
_WORKLOAD = {"prompt_tokens": 128, "output_tokens": 64, "concurrency": 1}


def make_uniform_bundle(
    model: Path,
    scheme: str,
    embed: str | None,
    output: Path,
    quantization: Mapping[str, object] | None = None,
    kv_cache: str | None = None,
) -> Path:
    """Optimize the float `model` with every linear at `scheme`, and the embedding with the head at `embed` (the same).

    What is left to choose is tuned as always: kernels' constants, block size, serving limits. The gate is wide open: the
    comparison shows each engine's KL. `quantization` is model.yaml's, with absolute paths; `kv_cache` a dtype, by default the
    search space's first. ValueError for an unknown scheme; what `optimize` raises.
    """
    linear, table = Scheme.parse(scheme).name, Scheme.parse(embed or scheme).name
    groups = {"embed": [table], "head": [table]} | {kind: [linear] for kind in ("qkv", "o", "gate_up", "down")}
    work = output.with_name(f"{output.name}.spec")
    work.mkdir(parents=True, exist_ok=True)
    precision: dict[str, object] = {"groups": groups} | ({"kv_cache": [kv_cache]} if kv_cache else {})
    space = {"precision": precision, "serving": _SERVING}
    spec = {
        "source": str(model.resolve()),
        "name": output.name,
        "target": "cpu",
        "evaluation": {"num_sequences": 4, "tokens_per_sequence": 16},
        "quantization": dict(quantization or {}),
        "gate": {"max_kl": 100.0},
        "workload": _WORKLOAD,
        "search": {"trials": 1, "space": "space.yaml"},
        "output": str(output.resolve()),
    }
    for name, content in (("space.yaml", space), ("model.yaml", spec)):
        (work / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return run_optimize(work / "model.yaml", Overrides())
