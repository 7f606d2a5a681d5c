"""In which formats a model's answers are written, by name or as its chat template shows."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.answer import reasoning
from runtime.answer.reasoning import ReasoningFormat
from runtime.chat import ChatTemplate
from runtime.tools import formats as tools
from runtime.tools.tool_format import ToolFormat


@dataclass(frozen=True)
class AnswerFormats:
    """None where answers have no calls that can be read, or no thoughts apart."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None

    @classmethod
    def of(
        cls, template: ChatTemplate | None, tools_name: str | None = None, reasoning_name: str | None = None
    ) -> AnswerFormats:
        """Those named; where a name is None, what `template` shows. UserError if there is no format of a name."""
        found = names_found(template)
        return cls(
            tools.named(found[0] if tools_name is None else tools_name),
            reasoning.named(found[1] if reasoning_name is None else reasoning_name),
        )

    @property
    def describes_tools(self) -> bool:
        """Whether tools are described in a message: the chat template is not to write them."""
        return self.tools is tools.PLAIN_JSON


def names_found(template: ChatTemplate | None) -> tuple[str, str]:
    """The names of the tool format and the reasoning format that the chat template shows, "none" for none."""
    if template is None:
        return tools.NONE, reasoning.NONE
    return tools.found_in(template.source, template.knows_tools), reasoning.found_in(template.source)
