"""Asks a model questions through the engine that serves it: batched, greedy, on the same steps, stop rules and detokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from optimizer.evaluation.metrics import NonFiniteLogitsError
from optimizer.evaluation.sets.item_set import Calls, Likelihood, Question, Reply
from runtime.answer.formats import AnswerFormats
from runtime.answer.reading import PLAIN, AnswerReading, reading_of
from runtime.answer.whole import Answer
from runtime.engine_core import EngineCore
from runtime.request import Request, SamplingParams, TokenOutput
from runtime.sampler import NoToken
from runtime.text_stream import StopStrings, TextStream, Vocabulary
from runtime.tools.functions import NO_PARAMETERS, Function, Functions


def ask(engine: EngineCore, vocabulary: Vocabulary, formats: AnswerFormats, questions: Sequence[Question]) -> list[Reply]:
    """The reply to each question, calls as `formats` has them. ValueError if one does not fit the engine's context;
    NonFiniteLogitsError.

    The engine must be idle, and is idle again afterwards. Replies do not depend on what is asked together (decision 0002).
    """
    assert not engine.has_work(), "an engine has one user at a time"
    open_questions = {str(i): _Open(question, vocabulary, formats) for i, question in enumerate(questions)}
    waiting = list(reversed(open_questions))
    while waiting or engine.has_work():
        while waiting and engine.stats().num_waiting < 2:
            engine.add(Request(waiting[-1], questions[int(waiting[-1])].token_ids, open_questions[waiting[-1]].params))
            waiting.pop()
        for output in engine.step():
            if open_questions[output.request_id].push(output):
                engine.abort(output.request_id)
    return [open_questions[str(i)].reply for i in range(len(questions))]


class _Open:
    """A question while its reply comes."""

    def __init__(self, question: Question, vocabulary: Vocabulary, formats: AnswerFormats) -> None:
        self._question = question
        self.reply: Reply = ""
        if isinstance(question, Likelihood):
            self.params = SamplingParams(temperature=0, max_tokens=0, prompt_logprobs=True)
            return
        stop = () if isinstance(question, Calls) else question.stop
        stop_token_ids = vocabulary.special_ids(stop)
        self.params = SamplingParams(temperature=0, max_tokens=question.max_tokens, stop_token_ids=stop_token_ids)
        reading = PLAIN
        if isinstance(question, Calls):
            prompt = vocabulary.decode(question.token_ids)
            reading = _reading(question, formats, prompt)
        self._reader = reading.new_reader()
        self._text = TextStream(vocabulary, question.token_ids, markers=reading.markers)
        self._stops = StopStrings(stop)

    def push(self, output: TokenOutput) -> bool:
        """Take the engine's next output; whether a stop string has ended the reply before the engine does."""
        if isinstance(output.error, NoToken):
            raise NonFiniteLogitsError(str(output.error)) from output.error
        if output.error is not None:
            raise output.error
        question = self._question
        if isinstance(question, Likelihood):
            assert output.prompt_logprobs is not None
            # Scores begin with the second token.
            self.reply = sum(scored.logprob for scored in output.prompt_logprobs[question.num_context_tokens - 1 :])
            if not math.isfinite(self.reply):
                raise NonFiniteLogitsError("log-probabilities must be finite, got NaN or infinity")
            return False
        assert isinstance(self.reply, str)
        text = ""
        if output.token_id is not None and output.finish_reason != "stop":
            text = self._text.push([output.token_id])
        if output.finish_reason is not None:
            text += self._text.flush()
        self.reply += self._stops.push(text)
        if self._stops.matched is not None:
            return True
        if output.finish_reason is not None:
            self.reply += self._stops.flush()
            if isinstance(question, Calls):
                self.reply = self._calls(self.reply)
        return False

    def _calls(self, text: str) -> str:
        """What `text` calls, as JSON."""
        calls = Answer.of([*self._reader.push(text), *self._reader.flush()]).calls
        return json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls])


def _reading(question: Calls, formats: AnswerFormats, prompt: str) -> AnswerReading:
    """As the server reads answers to a request that offers these tools."""
    functions = [tool["function"] for tool in json.loads(question.tools)]
    offered = [Function(function["name"], function.get("parameters") or NO_PARAMETERS) for function in functions]
    is_open = formats.reasoning is not None and formats.reasoning.is_open_after(prompt)
    return reading_of(formats, Functions(offered), begins_in_thought=is_open)
