"""Texts of a sets file: cut to tokens where two bundles have one tokenizer, to characters everywhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts.errors import UserError
from artifacts.text_file import read_text
from optimizer.assessment.bundle import BundleContender
from optimizer.assessment.contender import Contender
from optimizer.evaluation import Estimate, Evaluation, Gate, compare, text_sequences
from optimizer.evaluation.confidence import ratio_of_sums
from optimizer.spec.sets_spec import SetsSpec

#: about what a token is of English; pieces need not be as long as sequences, only alike for both
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Text:
    """A file to evaluate on, cut to at most `max_pieces` of about `tokens_per_piece`, and what it is held to."""

    name: str
    path: Path
    max_pieces: int
    tokens_per_piece: int
    gate: Gate

    def sequences(self, bundle: BundleContender) -> list[list[int]]:
        """By the bundle's tokenizer. UserError where the file is too short for one."""
        tokenizer = bundle.prompts.tokenizer
        return text_sequences(
            [self.path],
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            num_tokens=self.tokens_per_piece,
            max_sequences=self.max_pieces,
            prefix=tokenizer.encode("").ids,
        )

    def pieces(self) -> list[str]:
        """Of characters. UserError where the file is too short for one."""
        text, length = read_text(self.path, "evaluation text"), self.tokens_per_piece * _CHARACTERS_PER_TOKEN
        pieces = [text[start : start + length] for start in range(0, len(text) - length + 1, length)]
        if not pieces:
            raise UserError(f"{self.path}: evaluation text must have {length} characters for a piece, got {len(text)}")
        num_kept = min(self.max_pieces, len(pieces))
        return [pieces[i * len(pieces) // num_kept] for i in range(num_kept)]


def texts_of(spec: SetsSpec) -> list[Text]:
    """`evaluation.text` under the gate, sets of format text under the gate and their margins."""
    evaluation = spec.evaluation
    gate = Gate() if spec.gate is None else Gate(**spec.gate.model_dump())
    texts = [Text(path.stem, path, evaluation.num_sequences, evaluation.tokens_per_sequence, gate) for path in evaluation.text]
    for one in evaluation.sets:
        if one.format == "text":
            assert one.path is not None, "the specification asks for it"
            max_pieces = one.max_items or evaluation.num_sequences
            limits = gate.with_margin(one.margin)
            texts.append(Text(one.name, one.path, max_pieces, evaluation.tokens_per_sequence, limits))
    return texts


def compared_by_token(
    text: Text, candidate: BundleContender, against: BundleContender, seed: int, advance: Callable[[], None]
) -> Evaluation:
    """KL, perplexity and agreement of two bundles with one tokenizer."""
    scores = []
    for ids in text.sequences(against):
        scores.append(compare(ids, against.logits(ids), candidate.logits(ids)))
        advance()
    return Evaluation.of(scores, seed=seed)


@dataclass(frozen=True)
class Perplexities:
    """Per token of its own of each; the increase is per token of the other's, each with its 95 % interval."""

    candidate: Estimate
    against: Estimate | None
    increase: Estimate | None


def compared_by_text(
    text: Text, candidate: Contender, against: Contender | None, seed: int, advance: Callable[[], None]
) -> Perplexities:
    """How likely each finds the same pieces, whatever its tokens are."""
    ours, theirs = [], []
    for piece in text.pieces():
        ours.append(candidate.likelihood(piece))
        if against is not None:
            theirs.append(against.likelihood(piece))
        advance()

    def perplexity(losses: Sequence[float], num_tokens: Sequence[int], minus: float = 0.0) -> Estimate:
        return Estimate(*(math.exp(value) - minus for value in asdict(ratio_of_sums(losses, num_tokens, seed=seed)).values()))

    own = perplexity([-one.log_probability for one in ours], [one.num_tokens for one in ours])
    if against is None:
        return Perplexities(own, None, None)
    counts = [one.num_tokens for one in theirs]
    more = [known.log_probability - mine.log_probability for known, mine in zip(theirs, ours, strict=True)]
    return Perplexities(own, perplexity([-one.log_probability for one in theirs], counts), perplexity(more, counts, minus=1.0))
