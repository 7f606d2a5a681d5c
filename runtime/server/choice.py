"""One choice of a response: its tokens become text, its stop strings end it, its text becomes events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.answer.events import AnswerEvent, EndReason, TextDelta
from runtime.answer.reading import PLAIN, AnswerReading
from runtime.request import FinishReason, Logprobs, SamplingParams, TokenOutput
from runtime.server.metrics import SequenceClock
from runtime.server.protocol_generation import GenerationBody
from runtime.text_stream import StopStrings, TextStream, Vocabulary


@dataclass(frozen=True)
class ScoredToken:
    """A token's log-probability (None for a prompt's first token) and where its text begins in the choice's text."""

    token_id: int
    logprobs: Logprobs | None
    text_offset: int


@dataclass(frozen=True)
class Increment:
    """What a choice gained, the scores of the tokens it came from, and its end if this is it."""

    events: tuple[AnswerEvent, ...]
    tokens: tuple[ScoredToken, ...]
    finish_reason: EndReason | None

    @property
    def text(self) -> str:
        """The text among the events."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


class Choice:
    """State of one choice while its tokens come; `finish_reason` is set at its end, and `stop_string` if one ended it.

    With `echo`, its text begins with `echo_text` and, if scores are asked for, its tokens with the prompt's.
    """

    def __init__(
        self,
        index: int,
        request_id: str,
        vocabulary: Vocabulary,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        body: GenerationBody,
        clock: SequenceClock,
        echo_text: str = "",
        reading: AnswerReading = PLAIN,
    ) -> None:
        self.index = index
        self.request_id = request_id
        self.finish_reason: FinishReason | None = None
        self.stop_string: str | None = None
        self.token_ids: list[int] = []
        self.num_reasoning_tokens = 0
        self.num_cached_tokens = 0
        self.clock = clock
        self._vocabulary = vocabulary
        self._prompt_token_ids = prompt_token_ids
        self._min_tokens = params.min_tokens
        self._includes_stop = body.include_stop_str_in_output
        self._text = TextStream(vocabulary, prompt_token_ids, body.skip_special_tokens, reading.markers)
        self._stops = StopStrings(body.stop or (), body.include_stop_str_in_output)
        self._special_stops = vocabulary.special_ids(body.stop or ())
        self._echo_text = echo_text
        self._reader = reading.new_reader()
        self._text_length = 0
        self._scored_tokens: list[ScoredToken] = []

    @property
    def num_generated_tokens(self) -> int:
        return len(self.token_ids)

    def push(self, output: TokenOutput) -> Increment | None:
        """Take the next engine output. None if its text is held back for now; its scores then come with that text.

        Sets `finish_reason` if it ends the choice, be it by a stop string or because all is said.
        """
        assert output.finish_reason != "abort", "the stream of an aborted request has ended"
        self.num_cached_tokens = output.num_cached_tokens
        if output.prompt_logprobs is not None:
            self._score_prompt(output.prompt_logprobs)
        self._text_length += len(self._echo_text)
        text = self._echo_text + self._cut_at_stop(self._new_text(output), output.finish_reason)
        self._echo_text = ""
        events = self._read(text, is_token=output.token_id is not None)
        if self.finish_reason is not None:
            self.clock.end(self.finish_reason)
        elif not events:
            return None
        tokens, self._scored_tokens = tuple(self._scored_tokens), []
        return Increment(tuple(events), tokens, self._end_reason())

    def _read(self, text: str, is_token: bool) -> list[AnswerEvent]:
        was_reasoning = self._reader.is_reasoning
        events = self._reader.push(text)
        if is_token and (was_reasoning or self._reader.is_reasoning):
            self.num_reasoning_tokens += 1
        if self.finish_reason is None and self._reader.is_complete:
            self.finish_reason = "stop"
        return events if self.finish_reason is None else events + self._reader.flush()

    def _end_reason(self) -> EndReason | None:
        return "tool_calls" if self.finish_reason == "stop" and self._reader.num_calls else self.finish_reason

    def _new_text(self, output: TokenOutput) -> str:
        text = ""
        if output.token_id is not None:
            self.token_ids.append(output.token_id)
            self.clock.token()
            if output.logprobs is not None:
                self._scored_tokens.append(ScoredToken(output.token_id, output.logprobs, self._text_length))
            # The engine itself stops at end-of-sequence and stop ids alone, and these are not part of the text.
            if output.finish_reason == "stop" and output.token_id in self._special_stops:
                self.stop_string = self._vocabulary.token_text(output.token_id)
            if output.finish_reason != "stop" or self._includes_stop:
                text = self._text.push([output.token_id])
        if output.finish_reason is not None:
            text += self._text.flush()
        self._text_length += len(text)
        return text

    def _cut_at_stop(self, text: str, reason: FinishReason | None) -> str:
        self.finish_reason = reason
        if self.num_generated_tokens <= self._min_tokens:
            return text
        text = self._stops.push(text)
        if self._stops.matched is not None:
            self.finish_reason, self.stop_string = "stop", self._stops.matched
        elif reason is not None:
            text += self._stops.flush()
        return text

    def _score_prompt(self, scores: Sequence[Logprobs]) -> None:
        offset = 0
        for token_id, logprobs in zip(self._prompt_token_ids, (None, *scores), strict=True):
            self._scored_tokens.append(ScoredToken(token_id, logprobs, offset))
            offset += len(self._vocabulary.token_text(token_id))
