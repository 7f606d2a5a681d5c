"""`coldforge evaluate` on bundles and on served ones, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optimizer.assessment.endpoint_prompts import AskedChat, asked, endpoint_prompts
from tests.optimizer.assessment.conftest import SETS, Evaluate


def evaluation(*sets: dict[str, Any], **gate: object) -> dict[str, object]:
    return {"evaluation": {"sets": list(sets)}} | ({"gate": gate} if gate else {})


def test_a_bundle_against_itself_is_equal_and_passes(evaluate: Evaluate, folder: Path, tmp_path: Path) -> None:
    limits = {"max_kl": 1e-6, "max_perplexity_increase": "0.1%", "min_top1_agreement": "99.9%"}
    sets = json.loads(json.dumps(SETS)) | {"gate": limits}
    sets["evaluation"]["sets"] += [{"format": "chat_template"}, {"path": "prose.txt", "format": "text", "name": "more"}]
    result = evaluate(folder / "good", "--against", folder / "good", "--json", tmp_path / "figures.json", sets=sets)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["passed"] and list(figures["sets"]) == ["prose", "more", "pick", "chat_template"]
    assert figures["sets"]["prose"]["kl"]["value"] == 0 and figures["sets"]["prose"]["top1_agreement"]["value"] == 1
    pick = figures["sets"]["pick"]
    assert pick["scores"]["acc"]["num_worse"] == pick["scores"]["acc"]["num_better"] == 0
    assert pick["outcome"] == "pass" and "pass" in result.output


def test_a_worse_bundle_fails_and_all_sets_are_shown(evaluate: Evaluate, folder: Path) -> None:
    result = evaluate(folder / "worse", "--against", folder / "good")
    assert result.exit_code == 1, result.output
    assert "prose: perplexity_increase" in result.output and "must be at most 0.01" in result.output
    assert "pick" in result.output


def test_a_served_bundle_is_the_bundle(evaluate: Evaluate, folder: Path, url: str, tmp_path: Path) -> None:
    """The same items to both, by token ids to the one and by text to the other: all marks alike, the text equally likely."""
    result = evaluate(url, "--against", folder / "good", "--json", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["candidate"] == url.removesuffix("/v1")
    assert figures["sets"]["prose"]["increase"]["value"] == pytest.approx(0, abs=1e-6)
    for scores in figures["sets"]["pick"]["scores"].values():
        assert scores["num_worse"] == scores["num_better"] == 0
    degraded = evaluate(folder / "worse", "--against", url)
    assert degraded.exit_code == 1 and "prose: perplexity_increase" in degraded.output


def test_chats_and_texts_are_asked_and_answered_alike(evaluate: Evaluate, folder: Path, url: str, tmp_path: Path) -> None:
    rows = [{"question": f"{i} and 1?", "answer": f"#### {i + 1}"} for i in range(12)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = {"path": "sums.jsonl", "format": "gsm8k", "max_tokens": 12, "margin": "40%"}
    sets = evaluation(one, one | {"name": "chats", "chat": True})
    result = evaluate(url, "--against", folder / "good", "--json", tmp_path / "figures.json", sets=sets)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(figures["sets"][name]["outcome"] == "pass" for name in ("sums", "chats"))


def test_alone_scores_are_shown_and_nothing_fails(evaluate: Evaluate, folder: Path) -> None:
    result = evaluate(folder / "good")
    assert result.exit_code == 0, result.output
    assert "perplexity" in result.output and "acc_norm" in result.output and "verdict" not in result.output


def test_what_is_asked_is_read_back() -> None:
    prompts = endpoint_prompts()
    assert asked(prompts, prompts.encode('naïve "text"\n')) == 'naïve "text"\n'
    messages = [{"role": "user", "content": "Hi\n"}, {"role": "assistant", "content": 'So "\n it'}]
    ids = prompts.encode_chat(messages, continue_final_message=True)
    assert asked(prompts, ids) == AskedChat(messages, (), True)
    assert asked(prompts, prompts.encode_chat(messages[:1])) == AskedChat(messages[:1], (), False)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "evaluation: this key is required and missing"),
        ({"evaluation": {}}, "evaluation must have text or sets, got neither"),
        ({"evaluation": {"text": ["prose.txt"]}}, "evaluation.text needs a limit; add gate"),
        (evaluation({"format": "chat_template"}, max_kl=0.1), "gate limits what is measured on text, and there is none"),
        (evaluation({"format": "tool"}), "sets.0.format: must be"),
        (evaluation({"format": "gsm8k", "path": "none.jsonl"}), "must be a path that exists"),
        (evaluation({"format": "gsm8k", "path": "pick.jsonl"}), "answer must be there and of type str"),
        ({"evaluation": {"sets": []}, "gates": {}}, "gates: unknown key"),
        ("evaluation: [", "must be YAML"),
    ],
)
def test_a_malformed_file_is_refused_by_place(evaluate: Evaluate, folder: Path, sets: object, message: str) -> None:
    result = evaluate(folder / "good", sets=sets)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Error: ") and message in result.output


def test_what_an_endpoint_cannot_be_asked_is_refused_by_name(evaluate: Evaluate, folder: Path, url: str) -> None:
    def refusal(*one: dict[str, Any], **gate: object) -> str:
        result = evaluate(url, "--against", folder / "good", sets=evaluation(*one, **gate))
        assert result.exit_code == 2, result.output
        return result.output

    assert "set retrieval:" in refusal({"format": "retrieval"})
    assert "set chat_template:" in refusal({"format": "chat_template"})
    assert "text prose: gate.max_kl compares whole" in refusal({"format": "text", "path": "prose.txt"}, max_kl=0.1)
    alone = evaluate(folder / "good", sets=evaluation({"format": "chat_template"}))
    assert alone.exit_code == 2 and "give it with --against" in alone.output


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>hello</html>", "is no OpenAI-compatible endpoint: GET /v1/models"),
        (404, b"not here", "is no OpenAI-compatible endpoint: GET /v1/models was answered with 404"),
        (200, b"[1, 2]", "is no OpenAI-compatible endpoint"),
        (200, b'{"data": []}', "has 0 models"),
        (401, b'{"error": {"message": "no key"}}', "refuses the key"),
    ],
)
def test_a_url_that_is_no_api(evaluate: Evaluate, stranger: Any, status: int, body: bytes, message: str) -> None:
    result = evaluate(stranger(status, body))
    assert result.exit_code == 2 and message in result.output, result.output
    assert result.output.count("\n") == 1


def test_an_endpoint_that_cannot_score_is_refused_by_name(evaluate: Evaluate, stranger: Any) -> None:
    url = stranger(200, b'{"data": [{"id": "m"}], "choices": [{"text": "x", "index": 0, "finish_reason": "stop"}]}')
    result = evaluate(url)
    assert result.exit_code == 2 and "text prose:" in result.output and "echo and logprobs" in result.output, result.output
    result = evaluate(url, sets=evaluation({"path": "pick.jsonl", "format": "multiple_choice"}))
    assert result.exit_code == 2 and "set pick:" in result.output and "echo and logprobs" in result.output, result.output


def test_a_dead_url_another_model_and_no_bundle(evaluate: Evaluate, folder: Path, url: str) -> None:
    dead = evaluate("http://127.0.0.1:9")
    assert dead.exit_code == 2 and "cannot be reached" in dead.output
    other = evaluate(url, "--model", "gpt")
    assert other.exit_code == 2 and "has the models tiny, not 'gpt'" in other.output
    none = evaluate(folder)
    assert none.exit_code == 2 and "manifest.json" in none.output
    assert evaluate(folder / "good", "--model", "tiny").exit_code == 2
    assert evaluate(folder / "good", "--against-model", "tiny").exit_code == 2
