"""Asks a model questions through the engine that serves it: batched, greedy, on the same steps, stop rules and detokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optimizer.evaluation.metrics import NonFiniteLogitsError
from optimizer.evaluation.sets.item_set import Completion, Question, Reply
from runtime.engine_core import EngineCore
from runtime.request import Request, SamplingParams, TokenOutput
from runtime.sampler import NoToken
from runtime.text_stream import StopStrings, TextStream, Vocabulary


def ask(engine: EngineCore, vocabulary: Vocabulary, questions: Sequence[Question]) -> list[Reply]:
    """The reply to each question. ValueError if one does not fit the engine's context; NonFiniteLogitsError.

    The engine must be idle, and is idle again afterwards. Replies do not depend on what is asked together (decision 0002).
    """
    assert not engine.has_work(), "an engine has one user at a time"
    open_questions = {str(i): _Open(question, vocabulary) for i, question in enumerate(questions)}
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

    def __init__(self, question: Question, vocabulary: Vocabulary) -> None:
        self._question = question
        self.reply: Reply = ""
        if isinstance(question, Completion):
            stop_token_ids = vocabulary.special_ids(question.stop)
            self.params = SamplingParams(temperature=0, max_tokens=question.max_tokens, stop_token_ids=stop_token_ids)
            self._text = TextStream(vocabulary, question.token_ids)
            self._stops = StopStrings(question.stop)
        else:
            self.params = SamplingParams(temperature=0, max_tokens=0, prompt_logprobs=True)

    def push(self, output: TokenOutput) -> bool:
        """Take the engine's next output; whether a stop string has ended the reply before the engine does."""
        if isinstance(output.error, NoToken):
            raise NonFiniteLogitsError(str(output.error)) from output.error
        if output.error is not None:
            raise output.error
        question = self._question
        if not isinstance(question, Completion):
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
        return False
