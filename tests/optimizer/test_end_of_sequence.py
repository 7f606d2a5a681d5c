"""Which ends of sequence a source's own are completed with, and what is said of them."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from optimizer.importers.end_of_sequence import completed, doubts
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
    assert completed(prompts(template), eos_ids) == eos_ids


def test_an_end_of_turn_that_does_not_end_a_reply() -> None:
    assert completed(prompts(CHATML), [END_OF_TEXT]) == [END_OF_TEXT, END]
    (doubt,) = doubts(prompts(CHATML), [END_OF_TEXT])
    assert "writes '<|end|>', token 2, which is not among the ends of sequence 0:" in doubt
    assert "add it to eos_token_id" in doubt


def test_ends_that_no_reply_can_have_or_any_text_can() -> None:
    assert "names no end of sequence" in doubts(prompts(CHATML), [])[0]
    unknown, plain = doubts(prompts(None), [999, PLAIN])
    assert "999 is not a token" in unknown
    assert "'<|plain|>', is not a special token" in plain


#: what turns are written as, with R for the role and T for the text; public reports of chats that ran on
CASES = {
    # https://github.com/hiyouga/LlamaFactory/issues/7454
    "a base model's end, ChatML's turns": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_start|>R\nT<|im_end|>\n",
        ["<|endoftext|>"],
        ["<|im_end|>"],
    ),
    # https://github.com/ollama/ollama/issues/3759, https://github.com/oobabooga/textgen/issues/5885
    "Llama 3's base end": (
        ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|start_header_id|>R<|end_header_id|>\n\nT<|eot_id|>",
        ["<|end_of_text|>"],
        ["<|eot_id|>"],
    ),
    "an end of messages to tools": (
        ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"],
        "<|start_header_id|>R<|end_header_id|>\n\nT<|eot_id|>",
        ["<|eot_id|>"],
        ["<|eom_id|>"],
    ),
    # https://github.com/huggingface/lighteval/issues/1278
    "Gemma's end of texts": (
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        "<start_of_turn>R\nT<end_of_turn>\n",
        ["<eos>"],
        ["<end_of_turn>"],
    ),
    # https://github.com/vllm-project/vllm/issues/1183
    "StarChat's turns": (
        ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        "<|R|>\nT<|end|>\n",
        ["<|endoftext|>"],
        ["<|end|>"],
    ),
    "no end at all": (["<s>", "</s>"], "R: T</s>\n", [], ["</s>"]),
    "roles that are no tokens": (["<s>", "</s>", "<eos>"], "<|R|>\nT</s>\n", ["<eos>"], ["</s>"]),
    "a space before it": (["<s>", "</s>", "<eos>"], "[R] T </s>", ["<eos>"], ["</s>"]),
    "a name that nobody knows": (["<x>", "<begin>", "<done>"], "<begin>R\nT<done>", ["<x>"], ["<done>"]),
    "what begins the next turn": (["</s>", "<|user|>", "<|assistant|>"], "<|R|>T", ["</s>"], []),
    "what begins replies, after a reply too": (["</s>", "<|reply|>"], "T<|reply|>", ["</s>"], []),
    "text before a token": (["</s>", "<sep>"], "R: T\n## R<sep>", ["</s>"], []),
    # what ends a part of a reply is no end of it
    "harmony": (
        ["<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"],
        "<|start|>R<|message|>T<|end|>",
        ["<|return|>"],
        ["<|call|>"],
    ),
    "several that are stated": (["<a>", "<b>", "<|im_end|>"], "R\nT<|im_end|>\n", ["<b>", "<|im_end|>", "<a>"], []),
    "a longer token with the same beginning": (["<e>", "<e>\n", "<x>"], "R: T<e>\n", ["<x>"], ["<e>"]),
}


@pytest.mark.parametrize("name", CASES)
def test_ends_that_templates_and_names_add(name: str) -> None:
    special, turn, stated, found = CASES[name]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    parts = turn.replace("T", "{{ m.content }}").replace("R", "{{ m.role }}")
    chats = Prompts(tokenizer, ChatTemplate("{% for m in messages %}" + parts + "{% endfor %}"))
    ids = [tokenizer.token_to_id(text) for text in stated]
    assert completed(chats, ids) == [*ids, *(tokenizer.token_to_id(text) for text in found)]
    said = " ".join(doubts(chats, ids))
    assert all(repr(text) in said for text in found)
    assert completed(Prompts(tokenizer, None), ids) == ids, "what has no turns has no ends of turns"


def test_an_end_that_is_no_token_is_said() -> None:
    chats = prompts("{% for m in messages %}{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    (doubt,) = doubts(chats, [END_OF_TEXT])
    assert "writes '<|im_end|>', which is not a token" in doubt
