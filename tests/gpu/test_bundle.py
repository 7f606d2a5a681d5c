"""A bundle made here and served here: searched, compiled, frozen, verified, loaded, tried by its self-test, and asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.on_device import Gpu
from tests.gpu.tiny_llama import save_tiny_llama

pytestmark = pytest.mark.gpu

PROMPT = (2, 40, 77, 123, 200, 90, 31, 3)


@pytest.fixture(scope="module")
def bundle(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("pydantic", "optuna"):
        pytest.importorskip(package, reason=f"a bundle is made with {package}; see docs/gpu.md")
    from search_spaces.space import buildable_names, device

    name = next((name for name in buildable_names() if device(name).arch == gpu.target.arch.name), None)
    if name is None:
        pytest.skip(f"no buildable device is {gpu.target.arch.name}")
    folder = tmp_path_factory.mktemp("project")
    save_tiny_llama(folder / "tiny")
    spec = {
        "source": "tiny",
        "evaluation": {"num_sequences": 4, "tokens_per_sequence": 32},
        "workload": {"prompt_tokens": 32, "output_tokens": 16},
        "gate": {"max_kl": 0.5},
        "search": {"trials": 4, "space": "space.json"},
        "output": "out",
    }
    space = {"serving": {"kv_block_size": [16], "max_num_seqs": [4], "max_num_batched_tokens": [64]}}
    (folder / "model.yaml").write_text(json.dumps(spec))
    (folder / "space.json").write_text(json.dumps(space))
    command = "from optimizer.cli import optimize; optimize()"
    subprocess.run([sys.executable, "-c", command, str(folder / "model.yaml"), "--gpu", name], check=True)
    return folder / "out"


def generate(bundle: Path, num_requests: int) -> list[list[int]]:
    """Greedy tokens of as many requests with one prompt, together."""
    from runtime.loading import load
    from runtime.request import Request, SamplingParams

    engine = load(bundle).engine
    for index in range(num_requests):
        engine.add(Request(str(index), PROMPT, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)))
    tokens: dict[str, list[int]] = {str(index): [] for index in range(num_requests)}
    while engine.has_work():
        for output in engine.step():
            if output.token_id is not None:
                tokens[output.request_id].append(output.token_id)
    return list(tokens.values())


def test_a_bundle_loads_and_answers_alike_alone_and_in_a_batch(bundle: Path) -> None:
    (alone,) = generate(bundle, 1)
    assert len(alone) == 12 and all(0 <= token < 320 for token in alone)
    assert generate(bundle, 1) == [alone], "greedy decoding is deterministic"
    assert all(answer[0] == alone[0] for answer in generate(bundle, 4))
