"""The tests' reciting server with the template of hostile requests, in a process of its own."""

from __future__ import annotations

import sys


def _main(port: int) -> None:
    from runtime.chat import ChatTemplate
    from runtime.engine_core import EngineCore
    from runtime.server import create_app, serve
    from tests.server.conftest import LIMITS, RECITAL, RecitingRunner, make_tokenizer
    from tests.server.hostile import TEMPLATE

    tokenizer = make_tokenizer()
    recital = tokenizer.encode(RECITAL, add_special_tokens=False).ids
    runner = RecitingRunner(tokenizer.get_vocab_size(), recital, LIMITS.model_copy(update={"max_model_len": 256}))
    template = ChatTemplate(TEMPLATE, bos_token="<s>", eos_token="</s>")
    app = create_app(EngineCore(runner, []), tokenizer, model_name="tiny", version="1", chat_template=template)
    serve(lambda: app, "127.0.0.1", port, 5)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
