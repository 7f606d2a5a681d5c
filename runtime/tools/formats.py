"""The tool formats that there are, and which one a chat template shows."""

from __future__ import annotations

from collections.abc import Sequence

from artifacts.errors import UserError
from runtime.tools.deepseek import DeepSeek, DeepSeekV31
from runtime.tools.harmony import Harmony
from runtime.tools.hermes import Hermes
from runtime.tools.llama3 import Llama3
from runtime.tools.mistral import Mistral, MistralV11
from runtime.tools.plain_json import PlainJson
from runtime.tools.qwen_xml import QwenXml
from runtime.tools.tool_format import ToolFormat

PLAIN_JSON = PlainJson()
FORMATS: Sequence[ToolFormat] = (
    QwenXml(),
    Hermes(),
    MistralV11(),
    Mistral(),
    DeepSeekV31(),
    DeepSeek(),
    Llama3(),
    Harmony(),
    PLAIN_JSON,
)
#: of a model whose calls cannot be read
NONE = "none"
NAMES = (*(format.name for format in FORMATS), NONE)


def found_in(template: str, knows_tools: bool) -> str:
    """The name of the format in which the chat template's text shows calls.

    Where it shows none it is plain JSON, unless the template writes tools (`knows_tools`) and so has a format that is not
    among these: "none".
    """
    written = next((format.name for format in FORMATS if format.writes(template)), None)
    return written or (NONE if knows_tools else PLAIN_JSON.name)


def named(name: str) -> ToolFormat | None:
    """The format of that name, None for "none". UserError if there is none such."""
    if name == NONE:
        return None
    for format in FORMATS:
        if format.name == name:
            return format
    raise UserError(f"a tool format must be one of {', '.join(NAMES)}; got {name!r:.100}")
