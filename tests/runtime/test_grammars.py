"""Compiled grammars: their cache and limits, and masks against what the grammar's language says, also behind reasoning."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from runtime import grammars
from runtime.grammar import Grammar, of_choices, of_json_schema, of_regex
from runtime.grammars import Grammars, lark_of
from runtime.json_schema import constraining
from runtime.logits.grammar_mask import GrammarFailure
from runtime.reasoning import Reasoning
from runtime.request import Request, RequestError, SamplingParams
from runtime.sampler import sample
from runtime.sequence import Sequence
from runtime.text_stream import Vocabulary
from tests.server.conftest import make_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


@pytest.fixture
def made(tokenizer: Tokenizer) -> Grammars:
    return Grammars(Vocabulary(tokenizer), tokenizer.get_vocab_size() + 5, ends(tokenizer))


def ends(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.token_to_id("</s>"), tokenizer.token_to_id("<|end|>")]


def sequence_of(made: Grammars, grammar: Grammar, reasoning: Reasoning | None = None, **params: object) -> Sequence:
    request = Request("r", (1,), SamplingParams(**params), made.compile(grammar), reasoning)  # type: ignore[arg-type]
    return Sequence.from_request(request)


def allowed(sequence: Sequence, tokenizer: Tokenizer) -> set[str | None]:
    """The tokens that are left of all, the five of the logits among them for which there is no token."""
    logits = np.zeros(tokenizer.get_vocab_size() + 5, np.float32)
    (processor,) = sequence.processors
    processor.prepare(sequence)
    processor(logits, sequence, frozenset(ends(tokenizer)))
    return {tokenizer.id_to_token(int(token)) for token in np.flatnonzero(logits == 0)}


def say(sequence: Sequence, tokenizer: Tokenizer, *tokens: str) -> None:
    sequence.token_ids += [tokenizer.token_to_id(token) for token in tokens]


def test_the_tokens_that_can_go_on_are_allowed_and_every_end_where_it_is_complete(made: Grammars, tokenizer: Tokenizer) -> None:
    sequence = sequence_of(made, of_choices(["ab", "abc", "qui"]))
    assert allowed(sequence, tokenizer) == {"a", "q", "qu", "qui"}
    say(sequence, tokenizer, "a", "b")
    assert allowed(sequence, tokenizer) == {"c", "</s>", "<|end|>"}
    say(sequence, tokenizer, "c")
    assert allowed(sequence, tokenizer) == {"</s>", "<|end|>"}


def test_a_mask_may_be_asked_for_again_or_unprepared(made: Grammars, tokenizer: Tokenizer) -> None:
    sequence = sequence_of(made, of_regex("[ab]"))
    assert allowed(sequence, tokenizer) == allowed(sequence, tokenizer) == {"a", "b"}
    logits = np.zeros(tokenizer.get_vocab_size() + 5, np.float32)
    sequence.processors[0](logits, sequence, frozenset())
    assert np.count_nonzero(logits == 0) == 2


def test_special_tokens_are_named_and_never_text(made: Grammars, tokenizer: Tokenizer) -> None:
    end = tokenizer.token_to_id("<|user|>")
    assert allowed(sequence_of(made, Grammar(f'start: <[{end}]> "a"')), tokenizer) == {"<|user|>"}
    anything = allowed(sequence_of(made, Grammar("start: /(.|\\n)+/")), tokenizer)
    assert "<think>" in anything and not anything & {"<|user|>", "<s>", "</s>", None}


@pytest.mark.parametrize("regex", ["a/b", r"a\/b", r"\\/x", "/", r"\.\/\\\/"])
def test_slashes_in_a_regex_are_themselves(made: Grammars, tokenizer: Tokenizer, regex: str) -> None:
    assert re.fullmatch(regex, generated(sequence_of(made, of_regex(regex)), tokenizer))


def generated(sequence: Sequence, tokenizer: Tokenizer, num_tokens: int = 100) -> str:
    """What is drawn from flat logits until an end."""
    for _ in range(num_tokens):
        token, _ = sample(np.zeros(tokenizer.get_vocab_size() + 5, np.float32), sequence, frozenset(ends(tokenizer)))
        if token in ends(tokenizer):
            break
        sequence.token_ids.append(token)
    return str(tokenizer.decode(sequence.token_ids[1:], skip_special_tokens=False))


def test_sequences_of_one_grammar_do_not_share_their_place(made: Grammars, tokenizer: Tokenizer) -> None:
    compiled = made.compile(of_choices(["ab", "ba"]))
    first, second = (Sequence.from_request(Request("r", (1,), constraint=compiled)) for _ in range(2))
    assert allowed(first, tokenizer) == allowed(second, tokenizer) == {"a", "b"}
    say(first, tokenizer, "a")
    say(second, tokenizer, "b")
    assert allowed(first, tokenizer) == {"b"} and allowed(second, tokenizer) == {"a"}


def marks(tokenizer: Tokenizer, is_open: bool) -> Reasoning:
    return Reasoning.between("<think>", "</think>", Vocabulary(tokenizer), is_open)


def test_a_grammar_begins_behind_the_reasoning(made: Grammars, tokenizer: Tokenizer) -> None:
    sequence = sequence_of(made, of_choices(["ab"]), marks(tokenizer, is_open=False))
    assert allowed(sequence, tokenizer) == {"a", "<think>"}, "a model may answer at once"
    say(sequence, tokenizer, "<think>", "q")
    thinking = allowed(sequence, tokenizer)
    assert {"a", "qui", "</think>"} <= thinking and not thinking & {"</s>", "<|end|>"}
    say(sequence, tokenizer, "</think>")
    assert allowed(sequence, tokenizer) == {"a"}
    say(sequence, tokenizer, "a")
    assert allowed(sequence, tokenizer) == {"b"}


def test_a_model_may_answer_without_reasoning_or_reason_from_the_prompt_on(made: Grammars, tokenizer: Tokenizer) -> None:
    at_once = sequence_of(made, of_choices(["ab"]), marks(tokenizer, is_open=False))
    say(at_once, tokenizer, "a")
    assert allowed(at_once, tokenizer) == {"b"}
    is_open = sequence_of(made, of_choices(["ab"]), marks(tokenizer, is_open=True))
    assert "q" in allowed(is_open, tokenizer)
    say(is_open, tokenizer, "q", "</think>", "a", "b")
    assert allowed(is_open, tokenizer) == {"</s>", "<|end|>"}


def test_marks_of_several_tokens(made: Grammars) -> None:
    plain = make_tokenizer()
    vocabulary = Vocabulary(plain)
    made = Grammars(vocabulary, plain.get_vocab_size() + 5, ends(plain))
    reasoning = Reasoning.between("<t>", "</t>", vocabulary, is_open=False)
    sequence = sequence_of(made, of_choices(["ab"]), reasoning)
    assert allowed(sequence, plain) == {"a", "<"}
    say(sequence, plain, "<")
    assert allowed(sequence, plain) == {"t"}, "once begun it is written to its end"
    say(sequence, plain, "t", ">", "q", "<", "/", "t")
    assert "q" in allowed(sequence, plain)
    say(sequence, plain, ">")
    assert allowed(sequence, plain) == {"a"}


def test_a_budget_of_reasoning_and_a_grammar_work_together(made: Grammars, tokenizer: Tokenizer) -> None:
    is_open = marks(tokenizer, is_open=True)
    sequence = sequence_of(made, of_choices(["yes", "no"]), is_open, reasoning_budget=3, max_tokens=50)
    thought, _, answer = generated(sequence, tokenizer).partition("</think>")
    assert answer in ("yes", "no") and thought
    assert sequence.token_ids[4] == tokenizer.token_to_id("</think>")


def test_grammars_are_compiled_once_and_the_last_ones_kept(made: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "_MAX_CACHED", 2)
    one, two, three = (of_choices([text]) for text in "abc")
    first = made.compile(one)
    assert made.compile(one) is first and made.compile(replace(one, field="grammar")) is first
    made.compile(two)
    made.compile(three)
    assert made.compile(three) is made.compile(three)
    assert made.compile(one) is not first, "the oldest one had to go"
    monkeypatch.setattr(grammars, "_MAX_CACHED_BYTES", 9)
    made.compile(two)
    assert not made._compiled and made._num_bytes == 0


def test_a_grammar_that_asks_for_too_much_ends_its_own_request(made: Grammars, tokenizer: Tokenizer) -> None:
    rules = ["start: a0", *(f"a{i}: a{i + 1} a{i + 1} |" for i in range(900)), 'a900: "x"']
    sequence = sequence_of(made, Grammar("\n".join(rules)))
    with pytest.raises(GrammarFailure, match="make it simpler"):
        for _ in range(20):
            assert "x" in allowed(sequence, tokenizer)
            say(sequence, tokenizer, "x")


def test_a_model_without_an_end_cannot_be_held_to_a_grammar(tokenizer: Tokenizer) -> None:
    endless = Grammars(Vocabulary(tokenizer), 300, [])
    endless.get_ready()
    with pytest.raises(RequestError, match="guided_choice needs a model with a token that ends texts") as caught:
        endless.compile(of_choices(["a"], "guided_choice"))
    assert caught.value.param == "guided_choice"


def test_a_grammar_may_be_so_long(made: Grammars) -> None:
    with pytest.raises(RequestError, match=r"may have at most 131072 bytes as a grammar, got \d+"):
        made.compile(of_choices(["x" * 140_000]))


def test_gbnf_is_read_as_lark(made: Grammars, tokenizer: Tokenizer) -> None:
    assert allowed(sequence_of(made, lark_of('root ::= [x-z] "a"?', "grammar")), tokenizer) == {"x", "y", "z"}
    with pytest.raises(RequestError, match="grammar must be a grammar in Lark or GBNF"):
        lark_of("root ::= nothing", "grammar")


OBJECT = {"type": "object", "properties": {"a": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        (OBJECT, True),
        ({"type": "array", "items": OBJECT}, True),
        ({"anyOf": [OBJECT, {"type": "null"}], "description": "either"}, True),
        ({"$defs": {"o": OBJECT}, "$ref": "#/$defs/o"}, True),
        (OBJECT | {"additionalProperties": True}, False),
        (OBJECT | {"patternProperties": {"^b": {"type": "null"}}}, False),
        (OBJECT | {"required": ["b"]}, False),
        (OBJECT | {"required": ["a"], "minProperties": 2}, False),
        ({"allOf": [OBJECT, {"properties": {"b": {"type": "null"}}}]}, False),
        ({"anyOf": [OBJECT], "properties": {"b": {"type": "null"}}}, False),
        ({"$defs": {"o": OBJECT}, "$ref": "#/$defs/o", "properties": {"b": {"type": "null"}}}, False),
    ],
)
def test_objects_have_no_properties_beyond_those_they_name(schema: dict[str, object], closed: bool) -> None:
    assert ("'additionalProperties': False" in str(constraining(schema, "s"))) is closed
    assert "False" not in str(schema), "the client's own is left alone"


def test_a_clients_own_options_of_the_library_do_not_count(made: Grammars, tokenizer: Tokenizer) -> None:
    given = {"enum": [[1, 2]], "x-guidance": {"item_separator": ";", "lenient": True}}
    text = generated(sequence_of(made, of_json_schema(constraining(given, "s"), whitespace="")), tokenizer)
    assert text == "[1,2]"


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({}, {"minimum": -(2**53 - 1), "maximum": 2**53 - 1}),
        ({"minimum": 3}, {"maximum": 2**53 - 1}),
        ({"exclusiveMaximum": 3}, {"minimum": -(2**53 - 1)}),
        ({"minimum": 2**60}, {}),
        ({"maximum": -(2**60)}, {}),
        ({"minimum": 0, "maximum": 2**70}, {}),
        ({"enum": [2**70]}, {}),
    ],
)
def test_integers_have_the_bounds_that_all_readers_of_json_share(given: dict[str, object], added: dict[str, object]) -> None:
    schema = {"type": "integer"} | given
    assert constraining(schema, "s") == schema | added
