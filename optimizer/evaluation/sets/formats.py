"""A set of model.yaml -> its items, shuffled and cut, behind the interface of its format."""

from __future__ import annotations

from typing import Any

import numpy as np

from artifacts.errors import UserError
from optimizer.evaluation.sets.chat_template import ChatFidelity
from optimizer.evaluation.sets.gsm8k import Gsm8k
from optimizer.evaluation.sets.humaneval import HumanEval
from optimizer.evaluation.sets.item_set import ItemSet
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from optimizer.evaluation.sets.retrieval import Retrieval
from optimizer.spec import SetSpec
from runtime.prompts import Prompts


def open_set(spec: SetSpec, reference: Prompts, seed: int) -> ItemSet:
    """The set that `spec` names; `reference` encodes as the source of the model says.

    The first `num_fewshot` items of a file are examples and are not asked. Raises UserError for a file that cannot be read
    as its format, a chat without a template; SandboxUnavailable where code cannot be run safely.
    """
    if (spec.chat or spec.format == "chat_template") and reference.chat_template is None:
        raise UserError(f"set {spec.name}: this model has no chat template; remove chat, or the set")
    options: dict[str, Any] = {"margin": spec.margin, "metric": spec.metric}
    if spec.format == "chat_template":
        return ChatFidelity(spec.name, ChatFidelity.conversations(), reference=reference, **options)
    if spec.format == "retrieval":
        items = Retrieval.generate(spec.context_tokens, spec.max_items or 100, seed)
        return Retrieval(spec.name, items, chat=spec.chat, **options)
    assert spec.path is not None, "the specification asks for it"
    if spec.format == "humaneval":
        items = _dealt(HumanEval.read(spec.path), spec, seed)
        return HumanEval(spec.name, items, chat=spec.chat, max_tokens=spec.max_tokens or 512, **options)
    read = {"multiple_choice": MultipleChoice.read, "gsm8k": Gsm8k.read}[spec.format](spec.path)
    examples, items = read[: spec.num_fewshot], _dealt(read[spec.num_fewshot :], spec, seed)
    if spec.format == "multiple_choice":
        return MultipleChoice(spec.name, items, examples=examples, **options)
    return Gsm8k(spec.name, items, examples=examples, chat=spec.chat, max_tokens=spec.max_tokens or 256, **options)


def _dealt(items: list[dict[str, Any]], spec: SetSpec, seed: int) -> list[dict[str, Any]]:
    """Shuffled, and cut to `max_items`: a larger cut begins with the smaller one, whose results it reuses."""
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[i] for i in order[: spec.max_items]]
