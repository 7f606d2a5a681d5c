"""Questions to an endpoint, which has its own tokenizer and template: a token is a byte here, and a chat says what it is.

So every set of items writes its questions as it does for a bundle, and what it wrote is read back from the ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from runtime.chat import ChatTemplate
from runtime.prompts import Prompts
from runtime.tools.formats import PLAIN_JSON

#: of Unicode's private use, so that they stand in no text
_MESSAGE, _CONTENT, _ANSWER, _TOOLS = "\ue000", "\ue001", "\ue002", "\ue003"
# A content stands apart as it is, because a message that is to be continued ends within it.
_TEMPLATE = (
    f"{_TOOLS}{{{{ tools | tojson }}}}"
    f"{{% for m in messages %}}{_MESSAGE}{{{{ m | tojson }}}}{_CONTENT}{{{{ m.content }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{_ANSWER}{{% endif %}}"
)


@dataclass(frozen=True)
class AskedChat:
    """`is_continued` if the answer goes on with the last message."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]]
    is_continued: bool


def endpoint_prompts() -> Prompts:
    """Prompts that `asked` reads back."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Prompts(tokenizer, ChatTemplate(_TEMPLATE, tool_format=PLAIN_JSON.name))


def asked(prompts: Prompts, token_ids: Sequence[int]) -> str | AskedChat:
    """The text or the chat that `prompts` made these of."""
    text: str = prompts.tokenizer.decode(list(token_ids))
    if not text.startswith(_TOOLS):
        return text
    tools, *written = text[1:].removesuffix(_ANSWER).split(_MESSAGE)
    messages = []
    for one in written:
        message, _, content = one.partition(_CONTENT)
        messages.append(json.loads(message))
    is_continued = not text.endswith(_ANSWER)
    if is_continued:
        messages[-1]["content"] = content
    return AskedChat(messages, json.loads(tools) or (), is_continued)
