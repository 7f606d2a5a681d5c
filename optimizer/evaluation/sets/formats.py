"""A set of model.yaml -> its items, behind the interface of its format."""

from __future__ import annotations

from artifacts.errors import UserError
from optimizer.evaluation.sets.chat_template import ChatFidelity
from optimizer.evaluation.sets.gsm8k import Gsm8k
from optimizer.evaluation.sets.humaneval import HumanEval
from optimizer.evaluation.sets.item_set import ItemSet
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from optimizer.evaluation.sets.retrieval import Retrieval
from optimizer.evaluation.sets.tools import Tools
from optimizer.spec import SetSpec
from runtime.prompts import Prompts

#: by the name that model.yaml gives a format
FORMATS: dict[str, type[ItemSet]] = {
    one.format: one for one in (ChatFidelity, Gsm8k, HumanEval, MultipleChoice, Retrieval, Tools)
}


def open_set(spec: SetSpec, reference: Prompts, seed: int) -> ItemSet:
    """The set that `spec` names; `reference` encodes as the source of the model says.

    Raises UserError for a file that cannot be read as its format, and for a chat where the model has no template;
    SandboxUnavailable where code cannot be run safely.
    """
    is_chat = spec.chat or spec.format in (ChatFidelity.format, Tools.format)
    if is_chat and reference.chat_template is None:
        raise UserError(f"set {spec.name}: this model has no chat template; remove chat, or the set")
    return FORMATS[spec.format].open(spec, reference, seed)
