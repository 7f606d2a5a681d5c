"""Prompts and marks of each format, against what their public harnesses do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from optimizer.evaluation.sandbox import SandboxUnavailable
from optimizer.evaluation.sets import Completion, Likelihood, open_set
from optimizer.evaluation.sets.chat_template import ChatFidelity
from optimizer.evaluation.sets.gsm8k import Gsm8k
from optimizer.evaluation.sets.humaneval import HumanEval
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from optimizer.evaluation.sets.retrieval import Retrieval
from optimizer.spec import SetSpec
from runtime.chat import ChatTemplate
from runtime.prompts import Prompts
from tests.server.conftest import TEMPLATE, make_tokenizer


def prompts(template: str | None = TEMPLATE, tokenizer: Tokenizer | None = None) -> Prompts:
    chat = None if template is None else ChatTemplate(template, bos_token="<s>", eos_token="</s>")
    return Prompts(tokenizer or make_tokenizer(), chat)


def text(served: Prompts, question: object) -> str:
    assert isinstance(question, Completion | Likelihood)
    return str(served.tokenizer.decode(list(question.token_ids), skip_special_tokens=False))


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_multiple_choice_reads_every_form_of_answer(tmp_path: Path) -> None:
    rows = [{"question": "q", "choices": ["x", "y"], "answer": answer} for answer in (1, "B", "y")]
    assert [item["answer"] for item in MultipleChoice.read(write(tmp_path / "a.jsonl", *rows))] == [1, 1, 1]
    bad = write(tmp_path / "b.jsonl", {"question": "q", "choices": ["x", "y"], "answer": "C"})
    with pytest.raises(ValueError, match=r"b\.jsonl, item 0: answer must be an index from 0 to 1, a letter .* got 'C'"):
        MultipleChoice.read(bad)


def test_multiple_choice_scores_what_follows_the_context() -> None:
    items = [{"id": "0", "question": "Quick?", "choices": ["qui", "The fox"], "answer": 1}]
    served, given = prompts(), MultipleChoice("pick", items, examples=[{"question": "A?", "choices": ["b", "c"], "answer": 0}])
    first, second = given.questions(items[0], served)
    assert text(served, second) == "<s>Question: A?\nAnswer: b\n\nQuestion: Quick?\nAnswer: The fox"
    assert isinstance(first, Likelihood) and isinstance(second, Likelihood)
    assert first.token_ids[: first.num_context_tokens] == second.token_ids[: second.num_context_tokens]
    # A longer choice may win per character and lose in sum; bytes count where characters have several.
    assert given.mark(items[0], [-3.0, -5.0], served).scores == {"acc": 0.0, "acc_norm": 1.0, "acc_bytes": 1.0}
    other = {"id": "1", "question": "", "choices": ["abcd", "你好"], "answer": 1}
    assert given.mark(other, [-2.0, -2.0], served).scores == {"acc": 0.0, "acc_norm": 0.0, "acc_bytes": 1.0}


@pytest.mark.parametrize(
    ("reply", "strict", "flexible"),
    [
        ("So 3 + 4 = 7\n#### 1,007", 1, 1),
        ("#### 1007.", 1, 1),
        ("It is $1,007", 0, 1),
        ("#### 7 and then #### 1007", 0, 1),
        ("####1007", 0, 1),
        ("#### -1007", 0, 0),
        ("no idea", 0, 0),
        ("", 0, 0),
    ],
)
def test_gsm8k_extracts_as_the_harness_does(reply: str, strict: float, flexible: float) -> None:
    item = {"id": "0", "question": "How many?", "answer": "Well.\n#### 1,007"}
    marked = Gsm8k("gsm8k", [item]).mark(item, [reply], prompts())
    assert marked.scores == {"strict": strict, "flexible": flexible}


def test_gsm8k_prompts_plain_and_as_a_chat(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", *({"question": f"q{i}", "answer": f"a{i}\n#### {i}"} for i in range(5)))
    served = prompts()
    spec = SetSpec.model_construct(
        format="gsm8k", path=path, name="g", num_fewshot=2, max_items=2, max_tokens=9, metric="", margin=0.1, chat=False
    )
    plain = open_set(spec, served, 0)
    (question,) = plain.questions({"question": "q", "id": "0"}, served)
    expected = "Question: q0\nAnswer: a0\n#### 0\n\nQuestion: q1\nAnswer: a1\n#### 1\n\nQuestion: q\nAnswer:"
    assert text(served, question) == "<s>" + expected
    assert isinstance(question, Completion) and question.max_tokens == 9 and "Question:" in question.stop
    assert len(plain.items) == 2 and {item["id"] for item in plain.items} <= {"2", "3", "4"}
    more = open_set(spec.model_copy(update={"max_items": 3, "chat": True}), served, 0)
    assert [item["id"] for item in more.items][:2] == [item["id"] for item in plain.items]
    (chat,) = more.questions({"question": "q", "id": "0"}, served)
    assert text(served, chat) == f"<s><|user|>{expected}<|end|><|assistant|>"
    with pytest.raises(ValueError, match="no chat template; remove chat"):
        open_set(spec.model_copy(update={"chat": True}), prompts(None), 0)


def test_humaneval_runs_the_tests() -> None:
    item = {
        "id": "0",
        "prompt": 'def add(a, b):\n    """Add."""\n',
        "test": "def check(f):\n    assert f(1, 2) == 3\n",
        "entry_point": "add",
    }
    try:
        given = HumanEval("code", [item])
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    served = prompts()
    replies = {
        "    return a + b\n": 1.0,
        "    return a - b\n": 0.0,
        "    raise SystemExit(0)\n": 0.0,
        "    import os; os._exit(0)\n": 0.0,
        "    return a +": 0.0,
    }
    assert {reply: given.mark(item, [reply], served).scores["pass@1"] for reply in replies} == replies
    (chat,) = HumanEval("code", [item], chat=True).questions(item, served)
    begun = 'Here is the completed function:\n```python\ndef add(a, b):\n    """Add."""'
    assert text(served, chat).endswith(f"<|assistant|>{begun}")
    assert HumanEval("code", [item], chat=True).mark(item, ["\n    return a + b"], served).scores["pass@1"] == 1.0


def test_the_canonical_solutions_pass(data_dir: Path) -> None:
    items = HumanEval.read(data_dir / "eval" / "humaneval_a.jsonl")[:6]
    try:
        given = HumanEval("code", items)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert all(given.mark(item, [item["canonical_solution"]], prompts()).scores["pass@1"] == 1.0 for item in items)


def test_retrieval_fills_its_length_and_hides_the_key_at_its_depth() -> None:
    items, served = Retrieval.generate([200, 400], 6, seed=1), prompts()
    assert items == Retrieval.generate([200, 400], 6, seed=1) != Retrieval.generate([200, 400], 6, seed=2)
    given = Retrieval("far", items)
    for item in items:
        (question,) = given.questions(item, served)
        assert isinstance(question, Completion)
        assert item["num_tokens"] - 45 < question.num_tokens <= item["num_tokens"]
        whole = text(served, question)
        assert whole.count(item["key"]) == 2 and whole.endswith("The pass key is")
        assert given.mark(item, [f" {item['key']}. The"], served).scores["exact_match"] == 1.0
        assert given.mark(item, [f"{item['key']}1"], served).scores["exact_match"] == 0.0


def faults(served: Prompts, reference: Prompts) -> set[str]:
    given = ChatFidelity("chat", ChatFidelity.conversations(), reference=reference)
    return {marked.item for marked in (given.mark(item, (), served) for item in given.items) if not marked.scores["exact"]}


def test_the_served_template_is_the_sources() -> None:
    reference = prompts()
    everything = {item["id"] for item in ChatFidelity.conversations()}
    assert faults(prompts(), reference) == set()
    assert faults(prompts("{{ bos_token }}" + TEMPLATE), prompts("{{ bos_token }}" + TEMPLATE)) == everything - {"plain text"}
    assert faults(prompts(TEMPLATE.replace("{{ bos_token }}", "")), reference) == everything - {"plain text"}
    assert faults(prompts(TEMPLATE.replace("m.content", "m.content | trim")), reference) == {"spaces and line breaks"}


def test_a_split_special_token_and_a_missing_beginning_are_found() -> None:
    split = Tokenizer.from_str(make_tokenizer().to_str())
    state = json.loads(split.to_str())
    state["added_tokens"] = [added for added in state["added_tokens"] if added["content"] != "<|user|>"]
    assert "one message" in faults(prompts(tokenizer=Tokenizer.from_str(json.dumps(state))), prompts())
    state = json.loads(split.to_str()) | {"post_processor": None}
    assert faults(prompts(tokenizer=Tokenizer.from_str(json.dumps(state))), prompts()) == {"plain text"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"question": "q"'], r"a\.jsonl:1: must be one JSON object"),
        ([{"question": "q", "answer": "#### 1"}, {"question": "q"}], r"a\.jsonl:2: answer must be there and of type str"),
        ([{"question": 1, "answer": "#### 1"}], r"a\.jsonl:1: question must be there and of type str, got 1"),
        ([{"question": "q", "answer": "1"}], "answer must end in '#### N'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gsm8k.read(write(tmp_path / "a.jsonl", *lines))
