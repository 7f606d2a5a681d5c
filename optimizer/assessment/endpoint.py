"""An OpenAI-compatible endpoint as a contender: asked over HTTP, by text and messages alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import openai

from artifacts.errors import UserError
from optimizer.assessment import contender
from optimizer.assessment.endpoint_prompts import AskedChat, asked, endpoint_prompts
from optimizer.evaluation import ItemSet
from optimizer.evaluation.sets import Completion, Marked, Question, Reply
from optimizer.evaluation.sets.item_set import Calls, Likelihood

_NUM_AT_ONCE = 8
_TIMEOUT_S = 600.0
_PROBE = "The quick brown fox"


class EndpointContender:
    """`can_score` if it gives the log-probabilities of a prompt, as /v1/completions with echo and logprobs does."""

    def __init__(self, url: str, model: str | None, api_key: str | None) -> None:
        """Ask it for its models; `url` with or without /v1. UserError where it is dead, no API, or has no such model."""
        root = url.rstrip("/").removesuffix("/v1")
        self.label = root
        self.prompts = endpoint_prompts()
        self._client = openai.OpenAI(base_url=f"{root}/v1", api_key=api_key or "none", max_retries=4, timeout=_TIMEOUT_S)
        self._model = self._known_model(model)

    def results(self, item_set: ItemSet, items: Sequence[Mapping[str, Any]]) -> list[Marked]:
        questions = [item_set.questions(item, self.prompts) for item in items]
        with ThreadPoolExecutor(_NUM_AT_ONCE) as threads:
            replies = iter(list(threads.map(self._reply, [question for own in questions for question in own])))
        return [
            item_set.mark(item, [next(replies) for _ in own], self.prompts) for item, own in zip(items, questions, strict=True)
        ]

    def likelihood(self, text: str) -> contender.Likelihood:
        logprobs = [logprob for _, logprob in self._scored(text) if logprob is not None]
        return contender.Likelihood(math.fsum(logprobs), len(logprobs))

    @cached_property
    def can_score(self) -> bool:
        try:
            return any(logprob is not None for _, logprob in self._scored(_PROBE))
        except UserError:
            return False

    def _known_model(self, model: str | None) -> str:
        with self._faults_named("GET /v1/models"):
            try:
                known = [one.id for one in self._client.with_options(max_retries=0, timeout=30).models.list().data]
            except (AttributeError, TypeError, ValueError) as error:  # what the client makes of an answer that is no API's
                raise self._no_api("GET /v1/models", "what is no list of models") from error
        if model is None and len(known) != 1:
            raise UserError(f"{self.label} has {len(known)} models: {', '.join(known[:8])}; name one with --model")
        if model is not None and known and model not in known:
            raise UserError(f"{self.label} has the models {', '.join(known[:8])}, not {model!r}; name one of them with --model")
        return model or known[0]

    def _reply(self, question: Question) -> Reply:
        what = asked(self.prompts, question.token_ids)
        if isinstance(question, Likelihood):
            assert isinstance(what, str), "chats are not scored"
            context = asked(self.prompts, question.token_ids[: question.num_context_tokens])
            return self._continuation(what, len(str(context)))
        if isinstance(what, AskedChat):
            return self._chat(what, question)
        assert not isinstance(question, Calls), "tools are offered in chats"
        return self._completion(what, question)

    def _continuation(self, text: str, num_context_characters: int) -> float:
        """Log-probability of the tokens that end behind the context."""
        scored = self._scored(text)
        ends = [offset for offset, _ in scored[1:]] + [len(text)]
        own = [logprob for (_, logprob), end in zip(scored, ends, strict=True) if end > num_context_characters]
        if not own or None in own:
            raise UserError(f"{self.label} gives no log-probability for {text[num_context_characters:]!r}")
        return math.fsum(logprob for logprob in own if logprob is not None)

    def _scored(self, text: str) -> list[tuple[int, float | None]]:
        """Of each of the text's tokens, where it begins and its log-probability. Tokens without text, as a first one, count."""
        with self._faults_named("POST /v1/completions with echo and logprobs"):
            answer = self._client.completions.create(
                model=self._model, prompt=text, max_tokens=0, temperature=0, echo=True, logprobs=1
            )
        logprobs = answer.choices[0].logprobs
        if logprobs is None or logprobs.token_logprobs is None or logprobs.text_offset is None:
            raise UserError(f"{self.label} cannot score: its completions have no logprobs of the prompt under echo")
        return list(zip(logprobs.text_offset, logprobs.token_logprobs, strict=True))

    def _completion(self, text: str, question: Completion) -> str:
        with self._faults_named("POST /v1/completions"):
            answer = self._client.completions.create(
                model=self._model,
                prompt=text,
                max_tokens=question.max_tokens,
                temperature=0,
                stop=list(question.stop) or openai.omit,
            )
        return answer.choices[0].text

    def _chat(self, chat: AskedChat, question: Completion | Calls) -> str:
        more: dict[str, Any] = {"tools": chat.tools} if chat.tools else {}
        if isinstance(question, Completion) and question.stop:
            more["stop"] = list(question.stop)
        extra = {"continue_final_message": True, "add_generation_prompt": False} if chat.is_continued else {}
        messages: Any = [_with_texts(message) for message in chat.messages]
        with self._faults_named("POST /v1/chat/completions"):
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=messages,
                max_tokens=question.max_tokens,
                temperature=0,
                extra_body=extra,
                **more,
            )
        message = answer.choices[0].message
        if isinstance(question, Completion):
            return message.content or ""
        called = [call.function for call in message.tool_calls or () if call.type == "function"]
        return json.dumps([{"name": function.name, "arguments": function.arguments} for function in called])

    @contextmanager
    def _faults_named(self, route: str) -> Iterator[None]:
        try:
            yield
        except openai.APIConnectionError as error:
            raise UserError(
                f"{self.label} cannot be reached: {error.__cause__ or error}; is it serving, and is the URL right?"
            ) from error
        except openai.AuthenticationError as error:
            raise UserError(f"{self.label} refuses the key: {error.message}; give the right one in the environment") from error
        except openai.APIStatusError as error:
            if not isinstance(error.body, dict) or "message" not in error.body:
                raise self._no_api(route, f"{error.status_code}") from error
            raise UserError(f"{self.label}: {route} was refused with {error.status_code}: {error.body['message']}") from error
        except openai.APIError as error:
            raise self._no_api(route, str(error)) from error

    def _no_api(self, route: str, got: str) -> UserError:
        return UserError(f"{self.label} is no OpenAI-compatible endpoint: {route} was answered with {got}; check the URL")


def _with_texts(message: Mapping[str, Any]) -> dict[str, Any]:
    """`message` with the arguments of its calls as APIs have them, the text of an object."""
    if not message.get("tool_calls"):
        return dict(message)
    calls = []
    for call in message["tool_calls"]:
        arguments = call["function"].get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {"content": None, **message, "tool_calls": calls}
