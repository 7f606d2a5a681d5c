"""A tiny model that answers what a test says it answers: `speak` maps the text of a prompt to the text that follows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from artifacts.manifest import Limits
from runtime.batch import Batch

#: Chats with tools, calls and reasoning in Hermes' form.
HERMES_TEMPLATE = """{{ bos_token }}
{%- if tools %}<|system|>You may call <tools>
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>, each call within <tool_call></tool_call>: \
{"name": <function-name>, "arguments": <args-json-object>}<|end|>{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|user|><tool_response>{{ message.content }}</tool_response><|end|>
{%- else %}<|{{ message.role }}|>
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

SPEAKING_LIMITS = Limits(
    kv_block_size=16, num_kv_blocks=512, max_num_seqs=8, max_num_batched_tokens=512, max_model_len=4096, num_threads=1
)


class SpeakingRunner:
    """Each next token of `speak(prompt)` is by far the likeliest, and then the end of the sequence.

    Where a grammar forbids it, the likeliest are the end and what ends parts of JSON: it says nothing of its own.

    A prompt ends with its last `<|assistant|>`; what follows it is of the answer, be it that the prompt begins it.
    """

    def __init__(self, tokenizer: Tokenizer, speak: Callable[[str], str], limits: Limits = SPEAKING_LIMITS) -> None:
        self.vocab_size = tokenizer.get_vocab_size()
        self.limits = limits
        self._tokenizer = tokenizer
        self._speak = speak
        self._assistant = tokenizer.token_to_id("<|assistant|>")
        self._end = tokenizer.token_to_id("</s>")
        self._endings = [self._end, tokenizer.token_to_id('"'), tokenizer.token_to_id("}")]
        self.num_steps_left: int | None = None
        self._answers: dict[tuple[int, ...], list[int]] = {}
        self._cache = np.zeros(limits.num_kv_blocks * limits.kv_block_size, np.int64)

    def run(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        if self.num_steps_left is not None:
            self.num_steps_left -= 1
            assert self.num_steps_left >= 0, "the model breaks"
        self._cache[batch.slot_mapping] = batch.token_ids
        logits = np.zeros((batch.logit_rows.size, self.vocab_size), np.float32)
        for row, token_row in enumerate(batch.logit_rows):
            sequence = int(np.searchsorted(batch.cu_seqlens_q, token_row, side="right")) - 1
            num_tokens = int(batch.positions[token_row]) + 1
            size = self.limits.kv_block_size
            blocks = batch.block_tables[sequence, : -(-num_tokens // size)]
            slots = (blocks[:, None] * size + np.arange(size)).ravel()[:num_tokens]
            logits[row, self._endings] = (3.0, 2.0, 1.0)
            logits[row, self._next(self._cache[slots].tolist())] = 20.0
        return logits

    def _next(self, token_ids: list[int]) -> int:
        begin = len(token_ids) - token_ids[::-1].index(self._assistant)
        prompt = tuple(token_ids[:begin])
        if prompt not in self._answers:
            text = self._speak(self._tokenizer.decode(prompt, skip_special_tokens=False))
            self._answers[prompt] = self._tokenizer.encode(text, add_special_tokens=False).ids
        answer, num_said = self._answers[prompt], len(token_ids) - begin
        return answer[num_said] if num_said < len(answer) else self._end


def keyed(prompt: str) -> str:
    """What the tests' model says: by a word of the last turn. Anything else is greeted."""
    last = prompt.split("<|end|>")[-2]
    offered = re.search(r'"name": "(\w*Person)"', prompt.partition("</tools>")[0])
    answers = {
        "<tool_response>": "It is 21 degrees.",
        "two cities": CALL % "Paris" + "\n" + CALL % "Rome",
        "say and call": "Let me look.\n" + CALL % "Paris",
        "weather": CALL % "Paris",
        "think and call": "<think>I need a tool.</think>" + CALL % "Paris",
        "think": "<think>Two and two.</think>Four.",
        "person": PERSON % offered[1] if offered else '{"name": "Ada", "age": 36}',
        "count": "one two three four five six seven",
        "emoji": "你好 😀!",
        "nothing": "",
    }
    return next((answer for word, answer in answers.items() if word in last), "Hello there.")


PERSON = '<tool_call>\n{"name": "%s", "arguments": {"name": "Ada", "age": 36}}\n</tool_call>'
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s"}}\n</tool_call>'
