"""Replies of the engine against transformers on the same random model: likelihoods, greedy text, stop strings, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from artifacts.precision import Scheme
from optimizer.evaluation.sets.gsm8k import Gsm8k
from optimizer.evaluation.sets.item_set import Completion, Likelihood, Question
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from optimizer.importers import Source, open_source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.search.items import source_prompts, subject_on
from optimizer.weights.quantized_store import QuantizedStore
from runtime.prompts import Prompts

ITEMS = [{"id": str(i), "question": f"{i} + 1?", "choices": [f"{i + 1}", f"some {i}"], "answer": 0} for i in range(3)]


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> Source:
    return open_source(tiny_llama)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def workbench(source: Source, tmp_path_factory: pytest.TempPathFactory) -> CpuWorkbench:
    """On the portable references: nothing is compiled."""
    store = QuantizedStore(source, tmp_path_factory.mktemp("store"))
    return CpuWorkbench(source.architecture, store, "fp32", 16, None, 1)


def plan(source: Source) -> dict[str, Scheme]:
    return dict.fromkeys(source.architecture.linear_shapes(), Scheme("fp32"))


def log_probabilities(model: LlamaForCausalLM, token_ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0].double()
    return torch.log_softmax(logits, -1)


def test_likelihoods_are_those_of_transformers(source: Source, workbench: CpuWorkbench, model: LlamaForCausalLM) -> None:
    prompts = source_prompts(source)
    subject = subject_on(workbench, plan(source), prompts, [])
    choices = MultipleChoice("pick", ITEMS, examples=ITEMS[:1])
    for item, marked in zip(ITEMS, subject.results(choices, ITEMS), strict=True):
        expected = []
        for question in choices.questions(item, prompts):
            assert isinstance(question, Likelihood)
            rows, ids = log_probabilities(model, question.token_ids), question.token_ids
            positions = range(question.num_context_tokens, len(ids))
            expected.append(sum(float(rows[i - 1, ids[i]]) for i in positions))
        assert [float(word) for word in marked.answer.split()] == pytest.approx(expected, abs=2e-4)
        lengths = [len(choice) for choice in item["choices"]]
        per_character = [total / length for total, length in zip(expected, lengths, strict=True)]
        assert marked.scores["acc"] == (expected[0] >= expected[1])
        assert marked.scores["acc_norm"] == (per_character[0] >= per_character[1])


class Texts(Gsm8k):
    """Replies as they are."""

    stop: tuple[str, ...] = ()

    def questions(self, item: object, prompts: Prompts) -> list[Question]:
        return [Completion(tuple(prompts.encode(str(item))), 10, self.stop)]


def test_greedy_text_is_that_of_transformers_and_ends_at_a_stop(
    source: Source, workbench: CpuWorkbench, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    prompts, given = source_prompts(source), [f"Once {i}" for i in range(3)]
    items = [{"id": text, "answer": "#### 1"} for text in given]
    texts = Texts("texts", items)
    subject = subject_on(workbench, plan(source), prompts, [1], tmp_path / "answers.jsonl")
    replies = [marked.answer for marked in subject.results(texts, items)]
    expected = []
    for item in items:
        ids = torch.tensor([prompts.encode(str(item))])
        made = model.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=1, pad_token_id=1)[0, ids.shape[1] :]
        expected.append(prompts.tokenizer.decode(made.tolist(), skip_special_tokens=True))
    assert replies == expected

    longest = max(replies, key=len)
    assert len(longest) > 4
    Texts.stop = (longest[2:4],)
    cut = subject.results(texts, items)
    Texts.stop = ()
    assert [marked.answer for marked in cut] == [reply.split(longest[2:4])[0] for reply in replies]


def test_a_special_token_as_a_stop_ends_a_reply(source: Source, workbench: CpuWorkbench, model: LlamaForCausalLM) -> None:
    """Its text is in no reply, so that the id must end it."""
    prompts = source_prompts(source)
    ids = torch.tensor([prompts.encode(str({"id": "Once", "answer": "#### 1"}))])
    made = model.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=1)[
        0, ids.shape[1] :
    ].tolist()
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    piece = tokenizer.id_to_token(made[3])
    tokenizer.add_special_tokens([piece])
    first = made.index(made[3])
    Texts.stop = ("never said", piece)
    subject = subject_on(workbench, plan(source), Prompts(tokenizer, None), [])
    item = {"id": "Once", "answer": "#### 1"}
    (marked,) = subject.results(Texts("texts", [item]), [item])
    Texts.stop = ()
    assert marked.answer == tokenizer.decode(made[:first])


def test_what_was_answered_is_not_asked_again(source: Source, workbench: CpuWorkbench, tmp_path: Path) -> None:
    path, choices = tmp_path / "answers.jsonl", MultipleChoice("pick", ITEMS)
    prompts = source_prompts(source)
    first = subject_on(workbench, plan(source), prompts, [], path).results(choices, ITEMS[:3])
    path.write_text(path.read_text()[:-20])  # killed while it wrote the last line
    asked: list[int] = []

    def recording(num_tokens: int) -> object:
        asked.append(num_tokens)
        return subject_on(workbench, plan(source), prompts, [])._open_engine(num_tokens)

    again = type(subject_on(workbench, plan(source), prompts, []))(prompts, recording, path)  # type: ignore[arg-type]
    assert again.results(choices, ITEMS[:2]) == first[:2] and not asked
    assert again.results(choices, ITEMS[:3]) == first and asked
    assert len([line for line in path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]) == 3


def test_an_item_longer_than_the_context_is_refused(source: Source, workbench: CpuWorkbench) -> None:
    item = {"id": "0", "question": "x" * 300, "choices": ["a", "b"], "answer": 0}
    subject = subject_on(workbench, plan(source), source_prompts(source), [])
    with pytest.raises(ValueError, match=r"an item needs 3\d\d tokens .* context has 256; lower num_fewshot"):
        subject.results(MultipleChoice("pick", [item]), [item])
