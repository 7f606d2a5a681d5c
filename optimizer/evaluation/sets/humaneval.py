"""Functions to complete, run against their tests in the sandbox (HumanEval; Chen et al. 2021). Greedy: pass@1 of one sample."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from optimizer.evaluation.sandbox import SandboxLimits, run_sandboxed
from optimizer.evaluation.sets.item_set import Completion, ItemSet, Marked, Question, Reply, completion_prompt, dealt, path_of
from optimizer.evaluation.sets.jsonl import read_items
from optimizer.spec import SetSpec
from runtime.prompts import Prompts

_FUNCTION_ENDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_FENCE = "\n```"


@dataclass(frozen=True)
class HumanEval(ItemSet):
    """Items have `prompt`, `test` (which defines `check`) and `entry_point`. As a chat, the answer begins with the prompt."""

    chat: bool = field(kw_only=True, default=False)
    max_tokens: int = field(kw_only=True, default=512)
    limits: SandboxLimits = field(kw_only=True, default=SandboxLimits())
    format: ClassVar[str] = "humaneval"
    metrics: ClassVar[tuple[str, ...]] = ("pass@1",)

    def __post_init__(self) -> None:
        super().__post_init__()
        run_sandboxed("")  # a system that cannot isolate programs refuses now, not after hours of search

    @classmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> HumanEval:
        items = dealt(cls.read(path_of(spec)), spec, seed)
        max_tokens = spec.max_tokens or cls.max_tokens
        return cls(spec.name, items, margin=spec.margin, metric=spec.metric, chat=spec.chat, max_tokens=max_tokens)

    @classmethod
    def read(cls, path: Path) -> list[dict[str, Any]]:
        return read_items(path, {"prompt": str, "test": str, "entry_point": str})

    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        function: str = item["prompt"]
        if not self.chat:
            return [Completion(completion_prompt(prompts, function, chat=False), self.max_tokens, _FUNCTION_ENDS)]
        text = (
            f"Write a solution to the following problem and make sure that it passes the tests:\n```python\n{function}\n```\n"
        )
        begins = f"Here is the completed function:\n```python\n{function.rstrip()}"
        token_ids = completion_prompt(prompts, text, chat=True, answer_begins=begins)
        return [Completion(token_ids, self.max_tokens, (_FENCE,))]

    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        completion = str(replies[0])
        # A program that ends itself before its tests, or prints what it likes, has not passed: only this line says so.
        passed = secrets.token_hex(16)
        body = item["prompt"].rstrip() + completion if self.chat else item["prompt"] + completion
        program = f"{body}\n{item['test']}\ncheck({item['entry_point']})\nprint('\\n{passed}')\n"
        result = run_sandboxed(program, self.limits)
        is_right = result.ending == "exited" and result.exit_code == 0 and result.output.endswith(f"\n{passed}\n".encode())
        return Marked(item["id"], {"pass@1": float(is_right)}, completion)
