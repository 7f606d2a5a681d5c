"""The KV cache as a variable of the search: models with large keys get a bundle, and where there is none the reason is said."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from artifacts.reader import verify_bundle
from tests.optimizer.conftest import MakeProject, Project
from tests.optimizer.large_keys import save_model

LENGTH = 32
OnModel = Callable[..., Project]


@pytest.fixture
def on_model(project: MakeProject) -> OnModel:
    """A project over a model of `save_model`, and eight sequences of which the first is harmless: all its tokens are alike."""

    def make(kv_cache: list[str], key_bias: float, at: str | None = None, **changes: Any) -> Project:
        evaluation = {"text": ["text.txt"], "num_sequences": 4, "tokens_per_sequence": LENGTH}
        made = project(**{"evaluation": evaluation, "schemes": ["int8", "fp32"], "search": {"trials": 4}} | changes)
        (made.folder / "tiny").unlink()
        save_model(made.folder / "tiny", key_bias=key_bias, at=at)
        random.seed(0)
        first = "<s>" if at else "a"
        parts = ["a" * (LENGTH - 1)] + ["".join(random.choices("abcdefghijk ", k=LENGTH - 1)) for _ in range(7)]
        (made.folder / "text.txt").write_text("".join(first + part for part in parts))
        space = json.loads((made.folder / "space.json").read_text())
        space["precision"]["kv_cache"] = kv_cache
        (made.folder / "space.json").write_text(json.dumps(space))
        return made

    return make


def trials_of(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.bundle / "search/trials.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("key_bias", "at", "max_kl"), [(200.0, None, 0.05), (1000.0, "<s>", 0.0007)])
def test_a_model_with_large_keys_gets_a_bundle(on_model: OnModel, key_bias: float, at: str | None, max_kl: float) -> None:
    """A bf16 cache loses nothing in the first sequence, and more than the gate allows in others."""
    made = on_model(["bf16", "int8", "fp16", "fp32"], key_bias, at, gate={"max_kl": max_kl})
    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert re.search(
        r"KV cache: bf16 is left out of the search: alone it costs KL 0\.\d+, and 0\.\d+ in sequence [234] of 4 of text",
        result.output,
    )
    # Of a key bias int8 keys are free, of a massive token they are not.
    kept = {"fp16", "fp32"} | ({"int8"} if at is None else set())
    assert ("KV cache: int8 is left out of the search" in result.output) == ("int8" not in kept)
    manifest = verify_bundle(made.bundle)
    trials = trials_of(made)
    assert {trial["kv_cache"] for trial in trials} <= kept
    (chosen,) = [trial for trial in trials if trial["chosen"]]
    assert manifest.precision.kv_cache == chosen["kv_cache"]
    record = json.loads((made.bundle / "evaluation.json").read_text())
    assert record["passed"] and record["bundle"]["kv_cache"] == manifest.precision.kv_cache
    assert record["kv_caches"]["fp16"]["kl"] < max_kl and set(record["kv_caches"]) == kept
    assert f"rope_and_cache_{manifest.precision.kv_cache}" in manifest.kernels[0].symbols


def test_keys_beyond_the_range_of_fp16_refuse_it(on_model: OnModel) -> None:
    made = on_model(["fp16", "fp32"], 40_000.0)
    result = made.optimize()
    assert result.exit_code == 0, result.output
    refused = re.search(r"fp16 is left out of the search: .* must be within 32,752; got ([\d,]+)", result.output)
    assert refused is not None and 40_000 < int(refused[1].replace(",", "")) < 46_000
    assert verify_bundle(made.bundle).precision.kv_cache == "fp32"


def test_where_no_cache_on_offer_can_pass_it_says_so_before_anything_is_tuned(on_model: OnModel) -> None:
    made = on_model(["bf16"], 200.0, gate={"max_kl": 0.02})
    result = made.optimize()
    assert result.exit_code == 3, result.output
    assert "compiling paged_attention" not in result.output
    assert "no KV cache on offer leaves room within the KL allowed, 0.02, whatever the weights" in result.output
    assert re.search(r"bf16: alone it costs KL 0\.\d+, and 0\.\d+ in sequence [234] of 4 of text", result.output)
    assert re.search(
        r"with fp32 it is KL 0, with fp16 it is KL 0\.0\d+, with int8 it is KL 0\.0\d+: offer it in search.space: precision",
        result.output,
    )


def test_a_refusal_names_limit_value_sequence_and_what_would_pass(on_model: OnModel) -> None:
    made = on_model(["bf16"], 200.0, gate={"max_kl": 0.125}, search={"trials": 1}, schemes=["int8"])
    result = made.optimize()
    assert result.exit_code == 3, result.output
    last = result.output[result.output.index("nothing passes the gate") :].strip()
    number = r"\d+(?:\.\d+)?(?:e-\d+)?"
    assert re.search(rf"text: kl {number} \({number} to {number}\) must be at most 0\.125 at {number}: missed by", last)
    assert re.search(r"sequence \d+ of \d+ weighs most, \d+% of it, with KL", last)
    assert re.search(
        rf"over a KV cache of fp32 instead of bf16 the same plan has KL {number} \({number} to {number}\) and passes", last
    )
    assert last.endswith("offer fp32, or another that loses less than bf16, in search.space: precision.kv_cache")
