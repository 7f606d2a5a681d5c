"""What a model thinks before it answers: the formats that mark it, and what reads it off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.errors import UserError
from runtime.answer.cursor import Cursor, Steps, open_end
from runtime.answer.events import AnswerEvent, ReasoningDelta
from runtime.answer.reader import AnswerReader


@dataclass(frozen=True)
class ReasoningFormat:
    """Thoughts stand between `begin` and `end`, at the beginning of an answer.

    `direct` begins an answer without thoughts, where that has a mark, too. `calling` are texts that end thoughts as well, and
    belong to a call that follows. `words` are what marks of several tokens consist of.
    """

    name: str
    begin: str
    end: str
    direct: str = ""
    calling: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that a tokenizer may have as special tokens."""
        return self.words or (self.begin, self.end)

    def is_open_after(self, prompt: str) -> bool:
        """Whether an answer to `prompt` begins inside thoughts: templates of models that always think end like that."""
        return prompt.rstrip().endswith(self.begin)

    def is_open_in(self, beginning: str) -> bool:
        """Whether an answer that begins with `beginning` goes on inside thoughts."""
        return beginning.rfind(self.begin) > beginning.rfind(self.end)


FORMATS: Sequence[ReasoningFormat] = (
    ReasoningFormat("think", "<think>", "</think>"),  # DeepSeek-R1, Qwen3, QwQ, GLM, MiniMax, Nemotron
    ReasoningFormat("mistral", "[THINK]", "[/THINK]"),  # Magistral
    ReasoningFormat("seed", "<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningFormat("cohere", "<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ReasoningFormat(  # gpt-oss: channels of OpenAI's harmony
        "harmony",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        direct="<|channel|>final<|message|>",
        calling=("<|end|><|start|>assistant<|channel|>commentary", "<|end|><|start|>assistant to="),
        words=("<|channel|>", "<|message|>", "<|end|>", "<|start|>"),
    ),
    ReasoningFormat("thinking", "<thinking>", "</thinking>"),
    ReasoningFormat("reasoning", "<reasoning>", "</reasoning>"),
)
#: of a model that does not think apart
NONE = "none"
NAMES = (*(format.name for format in FORMATS), NONE)


def found_in(template: str) -> str:
    """The name of the format whose end the chat template's text mentions: it cuts thoughts off, or writes them; or writes
    answers that have a mark."""
    return next((format.name for format in FORMATS if (format.direct or format.end) in template), NONE)


def named(name: str) -> ReasoningFormat | None:
    """The format of that name, None for "none". UserError if there is none such."""
    if name == NONE:
        return None
    for format in FORMATS:
        if format.name == name:
            return format
    raise UserError(f"a reasoning format must be one of {', '.join(NAMES)}; got {name!r:.100}")


class ReasoningReader:
    """An `AnswerReader` that gives what follows the thoughts to another one. Whitespace around thoughts belongs to neither."""

    def __init__(
        self, format: ReasoningFormat, answer: AnswerReader, is_open: bool, is_shown: bool = True, may_call: bool = False
    ) -> None:
        """`is_open` says that the prompt has begun the thoughts. Thoughts that are not shown make no events. `may_call` says
        that `answer` reads calls."""
        self.is_reasoning = is_open
        self._format = format
        self._ends = (format.end, *(format.calling if may_call else ()))
        self._answer = answer
        self._is_shown = is_shown
        self._cursor = Cursor()
        self._events: list[AnswerEvent] = []
        self._has_ended = False
        self._steps = self._read()

    @property
    def num_calls(self) -> int:
        return self._answer.num_calls

    @property
    def is_complete(self) -> bool:
        return self._answer.is_complete

    def push(self, text: str) -> list[AnswerEvent]:
        if self._has_ended:
            return self._answer.push(text)
        self._cursor.feed(text)
        return self._go_on()

    def flush(self) -> list[AnswerEvent]:
        self._cursor.end()
        return self._go_on() + self._answer.flush()

    def _go_on(self) -> list[AnswerEvent]:
        next(self._steps, None)
        events, self._events = self._events, []
        return events

    def _read(self) -> Steps[None]:
        cursor = self._cursor
        yield from cursor.skip_space()
        begins = yield from cursor.skips(self._format.begin)  # even after a prompt that has, as some models do
        if self.is_reasoning or begins:
            self.is_reasoning = True
            cursor.forget()
            yield from cursor.skip_space()
            yield from self._thoughts()
            self.is_reasoning = False
            yield from cursor.skip_space()
        elif not (self._format.direct and (yield from cursor.skips(self._format.direct))):
            cursor.position = 0
        self._has_ended = True
        self._events += self._answer.push(cursor.rest)

    def _thoughts(self) -> Steps[None]:
        """Up to the end marker, which is read too, or to a call. A space is held until it is not the last."""
        cursor, end = self._cursor, self._format.end
        while True:
            rest = cursor.rest
            at = min((found for found in map(rest.find, self._ends) if found >= 0), default=-1)
            is_last = at >= 0 or cursor.has_ended
            shown = rest[:at] if at >= 0 else rest if cursor.has_ended else rest[: len(rest) - open_end(rest, self._ends)]
            shown = shown.rstrip()
            if shown and self._is_shown:
                self._events.append(ReasoningDelta(shown))
            cursor.take(len(shown))
            cursor.forget()
            if is_last:
                rest = cursor.rest
                at = at - len(shown) if at >= 0 else len(rest)
                cursor.take(at + len(end) if rest.startswith(end, at) else at)
                return
            yield
