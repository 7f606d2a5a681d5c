"""What is said of ends of sequence that do not go together with the tokenizer and the template, and of those that do."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from optimizer.end_of_sequence import doubts
from runtime.chat import ChatTemplate
from runtime.prompts import Prompts

END_OF_TEXT, START, END, PLAIN = range(4)
CHATML = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}<|start|>assistant\n"
#: as Llama 2 and Mistral have it: a space, then the end of sequence
SPACED = "{% for m in messages %}{{ '[' + m.content + ']' if m.role == 'user' else ' ' + m.content + ' <|text|>' }}{% endfor %}"
REFUSES = "{% if messages | length > 1 %}{{ raise_exception('one message only') }}{% endif %}{{ messages[0].content }}<|end|>"


def prompts(template: str | None) -> Prompts:
    pieces = ["<|text|>", "<|start|>", "<|end|>", "<|plain|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(pieces[:3])
    tokenizer.add_tokens([AddedToken(pieces[3], special=False)])
    return Prompts(tokenizer, None if template is None else ChatTemplate(template))


@pytest.mark.parametrize(
    ("template", "eos_ids"),
    [
        (None, [END_OF_TEXT]),
        (None, [END_OF_TEXT, END]),
        (CHATML, [END]),
        (CHATML, [END_OF_TEXT, END]),
        (SPACED, [END_OF_TEXT]),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", [END_OF_TEXT]),
        (REFUSES, [END_OF_TEXT]),
        ("{{ messages[0].content }}<|end|>", [END_OF_TEXT]),
    ],
    ids=[
        "base",
        "base, two ends",
        "chat",
        "chat, two ends",
        "a space before it",
        "turns end by line",
        "template refuses",
        "replies left out",
    ],
)
def test_nothing_is_said_of_what_goes_together(template: str | None, eos_ids: list[int]) -> None:
    assert doubts(prompts(template), eos_ids) == []


def test_an_end_of_turn_that_does_not_end_a_reply() -> None:
    (doubt,) = doubts(prompts(CHATML), [END_OF_TEXT])
    assert "writes '<|end|>', token 2, which is not among the ends of sequence 0:" in doubt
    assert "add it to eos_token_id" in doubt


def test_ends_that_no_reply_can_have_or_any_text_can() -> None:
    assert "names no end of sequence" in doubts(prompts(CHATML), [])[0]
    unknown, plain = doubts(prompts(None), [999, PLAIN])
    assert "999 is no token" in unknown
    assert "'<|plain|>', is no special token" in plain
