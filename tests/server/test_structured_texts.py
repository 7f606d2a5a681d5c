"""Regexes, choices and grammars, and how constraints live with everything else that a request may ask for; over HTTP."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.server.test_structured_json import HTTP, PERSON, USER, chat, content, refusal, validate

DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
LARK = 'start: "x" NUMBER ("," NUMBER)?\nNUMBER: /[1-9]{2}/'
GBNF = 'root ::= ("yes" | "no") " " [a-c]'


@pytest.mark.parametrize(
    ("fields", "regex"),
    [
        ({"guided_regex": DATE}, DATE),
        ({"regex": "(a|b){3}/c"}, "(a|b){3}/c"),
        ({"regex": r"\/\\[xy]"}, r"/\\[xy]"),
        ({"structured_outputs": {"regex": "[^a-z]{2}é"}}, "[^a-z]{2}é"),
        ({"guided_choice": ["yes", "no", "may be"]}, "yes|no|may be"),
        ({"guided_choice": ['a"b\\', "\n", "日本"]}, '(?:a"b\\\\|\n|日本)'),
        ({"guided_choice": ["same", "same"]}, "same"),
        ({"structured_outputs": {"choice": ["a", "ab", "abc"]}}, "abc|ab|a"),
        ({"guided_grammar": LARK}, "x[1-9]{2}(,[1-9]{2})?"),
        ({"structured_outputs": {"grammar": LARK}}, "x[1-9]{2}(,[1-9]{2})?"),
        ({"grammar": GBNF}, "(yes|no) [a-c]"),
        ({"ebnf": GBNF}, "(yes|no) [a-c]"),
        ({"guided_grammar": 'start: "a" %json {"enum": [1, 2]} "b"'}, "a[12]b"),
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0, 1])
def test_the_whole_answer_matches(served: Any, fields: dict[str, Any], regex: str, temperature: float) -> None:
    text, reason = content(chat(served, temperature=temperature, **fields))
    assert reason == "stop" and re.fullmatch(regex, text), text
    body = {"prompt": "Hi", "max_tokens": 300, "temperature": temperature} | fields
    (choice,) = HTTP.post(f"{served.url}/v1/completions", json=body).json()["choices"]
    assert re.fullmatch(regex, choice["text"]) and choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
        ({"guided_regex": "(?!a)b"}, "guided_regex", "look-around"),
        ({"guided_regex": ""}, "guided_regex", "at least 1 character"),
        ({"guided_regex": 3}, "guided_regex", "a string"),
        ({"guided_choice": []}, "guided_choice", "at least 1 item"),
        ({"guided_choice": [""]}, "guided_choice.0", "at least 1 character"),
        ({"guided_choice": "yes"}, "guided_choice", "a list"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1 item"),
        ({"structured_outputs": {}}, "structured_outputs", "must have one of json, json_object, regex"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs", "must have one of"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs", "structural_tag is not supported"),
        ({"structural_tag": "{}"}, None, "structural_tag is not supported"),
        ({"guided_grammar": "start: a"}, "guided_grammar", 'unknown name: "a"'),
        ({"guided_grammar": "start: ("}, "guided_grammar", "guided_grammar"),
        ({"grammar": "root ::= x"}, "grammar", "'x' not found"),
        ({"guided_grammar": 'start: %json {"not": {}}'}, "guided_grammar", "not"),
        ({"guided_json": PERSON, "guided_regex": "a"}, "guided_regex", "got guided_json and guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "held to one form"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex", "got response_format and regex"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_followed_is_one_clear_400(served: Any, fields: dict[str, Any], param: str | None, words: str) -> None:
    error = refusal(chat(served, **fields))
    assert error["param"] == param and words in error["message"], error


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _squared(depth: int) -> dict[str, Any]:
    """Each definition has the next one twice: 2^depth parts, if they were written out."""
    names = [f"d{i}" for i in range(depth)]
    two = {name: {"anyOf": [{"$ref": f"#/$defs/{after}"}] * 2} for name, after in pairwise(names)}
    return {"$defs": two | {names[-1]: {"type": "null"}}, "$ref": "#/$defs/d0"}


def _joined(count: int, ways: int) -> dict[str, Any]:
    return {"allOf": [{"anyOf": [{"properties": {f"{i}.{j}": {"enum": [j]}}} for j in range(ways)]} for i in range(count)]}


HOSTILE: dict[str, dict[str, Any]] = {
    "deep": {"guided_json": _nested(60)},
    "deeper than JSON may be": {"guided_json": _nested(150)},
    "squared": {"guided_json": _squared(40)},
    "joined": {"guided_json": _joined(8, 8)},
    "enormous enum": {"guided_json": {"enum": [f"value {i}" for i in range(30_000)]}},
    "large enum": {"guided_json": {"enum": [f"value {i}" for i in range(4_000)]}},
    "many patterns": {"guided_json": {"properties": {f"p{i}": {"pattern": f"^[a-z]{{1,99}}({i}|x)*$"} for i in range(300)}}},
    "powers": {"guided_regex": "(((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}"},
    "backtracking": {"guided_regex": "(a*)*(a|aa)*(.*.*.*)*b"},
    "intersection": {"guided_json": {"type": "string", "pattern": "(a|b)*a(a|b){400}", "minLength": 400, "maxLength": 900}},
    "endless length": {"guided_json": {"type": "string", "minLength": 10**9}},
    "endless items": {"guided_json": {"type": "array", "minItems": 10**9, "items": {"minimum": 10**300}}},
    "turning on itself": {"guided_grammar": "start: start start | start"},
    "many rules": {
        "guided_grammar": "\n".join(["start: a0", *(f"a{i}: a{i + 1} a{i + 1} |" for i in range(900)), 'a900: "x"'])
    },
    "many brackets": {"grammar": "root ::= " + "(" * 5_000 + '"a"' + ")" * 5_000},
    "many multiples": {"guided_json": {"type": "integer", "multipleOf": 999_999_937, "minimum": 3, "maximum": 10**15}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_end_soon_and_hold_nobody_up(served: Any, name: str) -> None:
    """It is refused, at once or later, or followed for a few tokens; the server answers others meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(chat, served, max_tokens=8, **HOSTILE[name])
        begin, longest_s = time.monotonic(), 0.0
        while not asked.done():
            before = time.monotonic()
            assert HTTP.get(f"{served.url}/health").status_code == 200
            longest_s = max(longest_s, time.monotonic() - before)
            assert time.monotonic() - begin < 20
            time.sleep(0.005)
    answer = asked.result()
    assert answer.status_code in (200, 400), answer.text
    assert longest_s < 2, "the event loop has waited"


def test_a_complete_answer_ends_whatever_wants_it_to_go_on(served: Any) -> None:
    text, reason = content(chat(served, guided_choice=["yes"], ignore_eos=True, min_tokens=50))
    assert (text, reason) == ("yes", "stop")


def test_min_tokens_holds_where_the_grammar_lets_it(served: Any) -> None:
    answer = chat(served, guided_regex="[ab]+", min_tokens=20, max_tokens=60, temperature=1.5)
    assert answer.json()["usage"]["completion_tokens"] >= 20
    assert re.fullmatch("[ab]{20,}", content(answer)[0])


def test_an_answer_that_is_cut_says_so(served: Any) -> None:
    text, reason = content(chat(served, guided_regex="[ab]{100}", max_tokens=5))
    assert reason == "length" and re.fullmatch("[ab]{5}", text)


def test_a_stop_string_cuts_an_answer_before_its_grammar_is_complete(served: Any) -> None:
    assert content(chat(served, guided_regex="aaab[xy]", stop="b")) == ("aaa", "stop")


def test_logprobs_are_the_models_own(served: Any) -> None:
    """A mask changes what is drawn, not what is scored: of the recital's token the model thinks more than of the one chosen."""
    answer = chat(served, guided_choice=["no"], logprobs=True, top_logprobs=2)
    first = answer.json()["choices"][0]["logprobs"]["content"][0]
    assert first["token"] == "n" and first["logprob"] < first["top_logprobs"][0]["logprob"]
    assert first["top_logprobs"][0]["token"] != "n"


def test_choices_of_one_request_each_follow_the_grammar(served: Any) -> None:
    answer = chat(served, guided_regex="[a-z]{6}", n=6, temperature=1.5).json()
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert all(re.fullmatch("[a-z]{6}", text) for text in texts) and len(set(texts)) > 1


def test_a_seed_gives_the_same_answer_again_in_any_company(served: Any) -> None:
    alone, _ = content(chat(served, guided_json=PERSON, seed=7))
    with ThreadPoolExecutor(6) as pool:
        forms: list[dict[str, Any]] = [{"guided_json": PERSON, "seed": 7}, {}, {"guided_regex": DATE}] * 4
        answers = list(pool.map(lambda form: chat(served, **({"max_tokens": 40} | form)), forms))
    assert {content(answer)[0] for answer, form in zip(answers, forms, strict=True) if "guided_json" in form} == {alone}
    for answer, form in zip(answers, forms, strict=True):
        if "guided_regex" in form:
            assert re.fullmatch(DATE, content(answer)[0])


def test_preempted_answers_still_follow_their_schema(run_server: Any) -> None:
    from tests.server.conftest import limits

    schema = {"type": "string", "pattern": "^[a-z]{60}$"}
    with run_server(runner_options=limits(num_kv_blocks=8, max_model_len=128)) as served, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: chat(served, guided_json=schema, max_tokens=90, seed=seed), range(4)))
        for answer in answers:
            validate(content(answer)[0], schema)
        assert served.engine.stats().num_preemptions > 0
        assert served.engine.stats().num_free_blocks == served.engine.stats().num_blocks


def test_echo_and_prompt_scores_go_with_a_grammar(served: Any) -> None:
    body = {"prompt": "The", "echo": True, "logprobs": 1, "guided_choice": ["no"], "max_tokens": 9}
    (choice,) = HTTP.post(f"{served.url}/v1/completions", json=body).json()["choices"]
    assert choice["text"] == "Theno" and choice["finish_reason"] == "stop"


@pytest.mark.parametrize("fields", [{"guided_json": None}, {"response_format": {"type": "text"}}, {"structured_outputs": None}])
def test_what_asks_for_nothing_changes_nothing(served: Any, fields: dict[str, Any]) -> None:
    plain = chat(served, temperature=0, max_tokens=9)
    assert content(chat(served, temperature=0, max_tokens=9, **fields)) == content(plain)


def test_a_client_that_leaves_frees_its_blocks(served: Any, wait: Any) -> None:
    body = {"messages": USER, "stream": True, "guided_regex": "[ab]{400}", "max_tokens": 450}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    wait(lambda: served.engine.stats().num_free_blocks == served.engine.stats().num_blocks)
