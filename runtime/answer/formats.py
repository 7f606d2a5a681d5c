"""In which formats a model's answers are written, by name or as its chat template shows."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.answer import reasoning
from runtime.answer.reasoning import ReasoningFormat
from runtime.tools import formats as tools
from runtime.tools.tool_format import ToolFormat


@dataclass(frozen=True)
class AnswerFormats:
    """None where answers have no calls that can be read, or no thoughts apart."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None

    @classmethod
    def of(
        cls, template: str, knows_tools: bool, tools_name: str | None = None, reasoning_name: str | None = None
    ) -> AnswerFormats:
        """Those named; where a name is None, what the chat template's text shows. UserError if there is no format of a name.

        `knows_tools` says whether it writes tools into prompts.
        """
        return cls(
            tools.named(tools.found_in(template, knows_tools) if tools_name is None else tools_name),
            reasoning.named(reasoning.found_in(template) if reasoning_name is None else reasoning_name),
        )

    @property
    def names(self) -> tuple[str, str]:
        """Of tools and reasoning, "none" for none."""
        return (
            tools.NONE if self.tools is None else self.tools.name,
            reasoning.NONE if self.reasoning is None else self.reasoning.name,
        )
