"""A bundle in your own program. Light until an engine is made: `import runtime` loads nothing of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.generated import Delta, Generated
    from runtime.server.in_process import InProcess, OnAnswer

#: a text, or the ids of its tokens
Prompt = str | Sequence[int]
Chat = Sequence[Mapping[str, Any]]


class Engine:
    """A bundle, loaded: batches of answers, and streams. It answers as `serve` does, for it is the same stack without HTTP.

    Options of a request are those of the server's API by the same names, with the same defaults: the model's own, then
    OpenAI's. Whatever is wrong with one is a `RequestError`, which names it. Use it as a context manager, or `close` it.

    >>> from runtime import Engine
    >>> engine = Engine(bundle)
    >>> answers = engine.generate(["Once upon a time", "The end"], max_tokens=4, temperature=0)
    >>> [(len(answer.token_ids), answer.finish_reason) for answer in answers]
    [(4, 'length'), (4, 'length')]

    A batch is as long as you like; answers come in the order of the prompts. Chats go through the model's template:

    >>> (answer,) = engine.chat([{"role": "user", "content": "Hi"}], max_tokens=3, logprobs=True)
    >>> len(answer.logprobs)
    3

    Streams are asynchronous. `events` of a delta tells text from reasoning and from tool calls:

    >>> import asyncio
    >>> async def streamed() -> str:
    ...     return "".join([delta.text async for delta in engine.stream("Once upon a time", max_tokens=4, temperature=0)])
    >>> asyncio.run(streamed()) == answers[0].text
    True
    >>> engine.generate("Hi", max_token=4)
    Traceback (most recent call last):
    ...
    runtime.request.RequestError: max_token is not an option of generate; did you mean max_tokens?
    >>> engine.close()
    """

    def __init__(self, bundle: str | Path, *, num_threads: int | None = None) -> None:
        """Load the bundle in the folder `bundle`. `num_threads` None is the bundle's own number, at most the cores here.

        BundleError where it is damaged or made for another machine; ModuleNotFoundError without coldforge[serve].
        """
        try:
            from runtime.server import in_process
        except ModuleNotFoundError as error:
            error.add_note(f"the engine needs {error.name}: pip install 'coldforge[serve]'")
            raise
        from runtime.loading import load

        self._running: InProcess | None = in_process.InProcess(load(Path(bundle), num_threads))

    def generate(self, prompts: Prompt | Sequence[Prompt], *, progress: bool = False, **options: Any) -> list[Generated]:
        """What follows each prompt, in their order; n answers each with `n`. `options` are those of /v1/completions.

        A prompt is a text or token ids. `progress` shows a bar on stderr.
        """
        several: Any = [prompts] if _is_prompt(prompts) else prompts
        return self._answers("generate", "prompt", several, progress, options)

    def chat(self, messages: Chat | Sequence[Chat], *, progress: bool = False, **options: Any) -> list[Generated]:
        """The assistant's next message in each chat, in their order. `options` are those of /v1/chat/completions."""
        several: Any = [messages] if _is_chat(messages) else messages
        return self._answers("chat", "messages", several, progress, options)

    def stream(self, prompt: Prompt, **options: Any) -> AsyncIterator[Delta]:
        """What follows `prompt`, as it comes. Leaving the loop ends the generation once the iterator is closed."""
        return self._open().stream(self._open().body("stream", "prompt", prompt, options))

    def stream_chat(self, messages: Chat, **options: Any) -> AsyncIterator[Delta]:
        """The assistant's next message, as it comes."""
        return self._open().stream(self._open().body("stream_chat", "messages", messages, options))

    def close(self) -> None:
        """End what is still open, and free the model. A closed engine answers nothing; closing it again does nothing."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _open(self) -> InProcess:
        if self._running is None:
            raise RuntimeError("the engine is closed; open the bundle again with Engine(bundle)")
        return self._running

    def _answers(
        self, method: str, field: str, several: Sequence[Any], progress: bool, options: Mapping[str, Any]
    ) -> list[Generated]:
        running = self._open()
        bodies = [running.body(method, field, one, options) for one in several]
        with _shown(len(bodies), progress) as on_answer:
            return running.answers(bodies, on_answer)


def _is_prompt(prompts: object) -> bool:
    """Whether it is one: a text, or a list that begins with a token id."""
    return isinstance(prompts, str) or (isinstance(prompts, Sequence) and len(prompts) > 0 and isinstance(prompts[0], int))


def _is_chat(messages: object) -> bool:
    return isinstance(messages, Sequence) and len(messages) > 0 and isinstance(messages[0], Mapping)


@contextmanager
def _shown(num_prompts: int, progress: bool) -> Iterator[OnAnswer]:
    """What is called with the answers to each prompt; with `progress` it moves a bar."""
    if not progress:
        yield lambda answers: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[tokens]} tokens"), TimeRemainingColumn())
    num_tokens = 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("answers", total=num_prompts, tokens=0)

        def on_answer(answers: Sequence[Generated]) -> None:
            nonlocal num_tokens
            num_tokens += sum(len(answer.token_ids) for answer in answers)
            bar.update(task, advance=1, tokens=num_tokens)

        yield on_answer
