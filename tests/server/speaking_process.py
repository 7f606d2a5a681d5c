"""The tests' speaking server in a process of its own, for clients that run in other environments."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.server.reciting_process import RecitingProcess, process_of


@contextmanager
def speaking() -> Iterator[RecitingProcess]:
    """Says what `keyed` says, to chats with tools and reasoning; its model is called tiny."""
    with process_of("tests.server.speaking_process") as server:
        yield server


def _main(port: int) -> None:
    from runtime.chat import ChatTemplate
    from runtime.engine_core import EngineCore
    from runtime.server import create_app, serve
    from tests.server.conftest import make_tokenizer
    from tests.server.speaking import HERMES_TEMPLATE, SpeakingRunner, keyed

    tokenizer = make_tokenizer()
    template = ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>")
    engine = EngineCore(SpeakingRunner(tokenizer, keyed), [tokenizer.token_to_id("</s>")])
    app = create_app(engine, tokenizer, model_name="tiny", version="1", chat_template=template)
    serve(lambda: app, "127.0.0.1", port, 5)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
