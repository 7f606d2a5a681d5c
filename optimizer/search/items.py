"""Finalists on the sets of items of model.yaml, through the library that will be bundled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from artifacts.precision import Plan
from optimizer.evaluation import Comparison, ItemSet, Subject, compare_all, least_items, open_set
from optimizer.importers import Source
from optimizer.measure.workbench import SCORING_CHUNK_TOKENS, Workbench
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.spec import EvaluationSpec
from runtime.engine_core import EngineCore
from runtime.generation_config import check_generation_config, eos_token_ids
from runtime.loading import chat_template_of
from runtime.prompts import Prompts

#: sequences that run together; replies do not depend on it
_NUM_SEQS = 8


def source_prompts(source: Source) -> Prompts:
    """Prompts as the source says, which are those of a bundle made from it. UserError if no such bundle could be served."""
    check_generation_config(source.generation_config, source.architecture.vocab_size)
    template = chat_template_of(source.chat_template, source.generation_config)
    return Prompts(Tokenizer.from_str(source.tokenizer_json), template)


def open_sets(spec: EvaluationSpec, prompts: Prompts, seed: int, reporter: Reporter) -> list[ItemSet]:
    """The sets of items that are named, ready before the search begins, so that what is wrong with one is said at once."""
    sets = [open_set(one, prompts, seed) for one in spec.sets if one.format != "text"]
    for item_set in sets:
        num_items, needed = len(item_set.items), least_items(item_set.margin)
        if num_items < needed and not item_set.is_exact:
            reporter.say(
                f"set {item_set.name}: {num_items} items cannot show a margin of {item_set.margin:.2%}, so the verdict will be "
                f"inconclusive; it takes {needed} items if both models agree on all of them, and more otherwise"
            )
    return sets


def subject_on(
    workbench: Workbench, plan: Plan, prompts: Prompts, eos_ids: Collection[int], answers: Path | None = None
) -> Subject:
    """The model under `plan` as `workbench` runs it, in an engine with room for what is asked."""

    def open_engine(num_tokens: int) -> EngineCore:
        block_size = workbench.kv_block_size
        room = -(-num_tokens // block_size) * block_size
        return EngineCore(workbench.runner(plan, SCORING_CHUNK_TOKENS, _NUM_SEQS * room, _NUM_SEQS), eos_ids)

    return Subject(prompts, open_engine, answers)


@dataclass(frozen=True)
class ItemJudge:
    """Compares plans with the unquantized model on sets of items. `folder` keeps every result: nothing is asked twice.

    Plans run on `workbench`, whose weights need not be those that `baseline` has.
    """

    sets: Sequence[ItemSet]
    workbench: Workbench
    prompts: Prompts
    eos_ids: Collection[int]
    baseline: Subject
    folder: Path
    seed: int

    @classmethod
    def make(
        cls,
        sets: Sequence[ItemSet],
        workbench: Workbench,
        baseline: Plan,
        prompts: Prompts,
        generation_config: dict[str, Any],
        folder: Path,
        seed: int,
    ) -> ItemJudge:
        eos_ids = eos_token_ids(generation_config)
        subject = subject_on(workbench.exact(), baseline, prompts, eos_ids, folder / "unquantized.jsonl")
        return cls(sets, workbench, prompts, eos_ids, subject, folder, seed)

    def compare(self, plan: Plan, title: str, reporter: Reporter) -> dict[str, Comparison]:
        """Set name -> comparison, up to the first that is not passed."""
        if not self.sets:
            return {}
        answers = self.folder / f"{plan_digest(plan, self.workbench.kv_dtype)}.jsonl"
        candidate = subject_on(self.workbench, plan, self.prompts, self.eos_ids, answers)
        with reporter.task(title, sum(len(item_set.items) for item_set in self.sets)) as advance:
            return compare_all(self.sets, self.baseline, candidate, seed=self.seed, on_item=advance)
