"""Texts of a sets file: cut to tokens where two bundles have one tokenizer, to characters everywhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts.errors import UserError
from artifacts.text_file import read_text
from optimizer.assessment.bundle import BundleContender
from optimizer.assessment.contender import Contender, Likelihood
from optimizer.evaluation import (
    Check,
    Estimate,
    Gate,
    Look,
    SequenceScore,
    TextComparison,
    Verdict,
    compare,
    compare_on_text,
    spread,
    text_looks,
    text_sequences,
)
from optimizer.evaluation.confidence import ratio_of_sums
from optimizer.evaluation.looks import until_decided
from optimizer.spec.sets_spec import SetsSpec

#: about what a token is of English; pieces need not be as long as sequences, only alike for both
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Text:
    """A file to evaluate on, in pieces of about `tokens_per_piece`, `num_pieces` at first, and what it is held to."""

    name: str
    path: Path
    num_pieces: int
    max_pieces: int
    tokens_per_piece: int
    gate: Gate

    def sequences(self, bundle: BundleContender) -> list[list[int]]:
        """By the bundle's tokenizer, every first part spread over the file. UserError where that is too short for one."""
        tokenizer = bundle.prompts.tokenizer
        sequences = text_sequences(
            [self.path],
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            num_tokens=self.tokens_per_piece,
            prefix=tokenizer.encode("").ids,
        )
        return [sequences[i] for i in spread(len(sequences))[: self.max_pieces]]

    def pieces(self) -> list[str]:
        """Of characters, likewise."""
        text, length = read_text(self.path, "evaluation text"), self.tokens_per_piece * _CHARACTERS_PER_TOKEN
        pieces = [text[start : start + length] for start in range(0, len(text) - length + 1, length)]
        if not pieces:
            raise UserError(f"{self.path}: evaluation text must have {length} characters for a piece, got {len(text)}")
        return [pieces[i] for i in spread(len(pieces))[: self.max_pieces]]

    def looks(self, num_available: int) -> tuple[Look, ...]:
        """At so many pieces."""
        return text_looks(self.num_pieces, num_available)


def texts_of(spec: SetsSpec) -> list[Text]:
    """`evaluation.text` under the gate, sets of format text under the gate and their margins."""
    evaluation = spec.evaluation
    gate = Gate() if spec.gate is None else Gate(**spec.gate.model_dump())
    first, length = evaluation.num_sequences, evaluation.tokens_per_sequence
    texts = [Text(path.stem, path, first, evaluation.most_sequences, length, gate) for path in evaluation.text]
    for one in evaluation.sets:
        if one.format == "text":
            assert one.path is not None, "the specification asks for it"
            most = one.max_items or evaluation.most_sequences
            texts.append(Text(one.name, one.path, first, most, length, gate.with_margin(one.margin)))
    return texts


def compared_by_token(
    text: Text, candidate: BundleContender, against: BundleContender, seed: int, advance: Callable[[], None]
) -> TextComparison:
    """KL, perplexity and agreement of two bundles with one tokenizer."""
    sequences = text.sequences(against)

    def scores(start: int, stop: int) -> Iterator[SequenceScore]:
        for ids in sequences[start:stop]:
            yield compare(ids, against.logits(ids), candidate.logits(ids))
            advance()

    return compare_on_text(text.looks(len(sequences)), scores, text.gate, seed=seed)


@dataclass(frozen=True)
class Perplexities:
    """Per token of its own of each on so many pieces; the increase is per token of the other's. With intervals at `level`."""

    num_pieces: int
    candidate: Estimate
    against: Estimate | None = None
    increase: Estimate | None = None
    level: float = 0.95
    limit: float | None = None
    """Of the increase."""

    @property
    def verdict(self) -> Verdict:
        if self.increase is None or self.limit is None:
            return Verdict(())
        return Verdict((Check("perplexity_increase", self.increase, self.limit, self.num_pieces),))


def compared_by_text(
    text: Text, candidate: Contender, against: Contender | None, seed: int, advance: Callable[[], None]
) -> Perplexities:
    """How likely each finds the same pieces, whatever its tokens are. Alone, the candidate is given those of the first look."""
    pieces = text.pieces()
    ours, theirs = list[Likelihood](), list[Likelihood]()

    def look_at(look: Look) -> Perplexities:
        for piece in pieces[len(ours) : look.size]:
            ours.append(candidate.likelihood(piece))
            if against is not None:
                theirs.append(against.likelihood(piece))
            advance()

        def perplexity(losses: Sequence[float], num_tokens: Sequence[int], minus: float = 0.0) -> Estimate:
            estimate = ratio_of_sums(losses, num_tokens, seed=seed, level=look.level)
            return Estimate(*(math.exp(value) - minus for value in asdict(estimate).values()))

        own = perplexity([-one.log_probability for one in ours], [one.num_tokens for one in ours])
        if against is None:
            return Perplexities(len(ours), own, level=look.level)
        counts = [one.num_tokens for one in theirs]
        more = [known.log_probability - mine.log_probability for known, mine in zip(theirs, ours, strict=True)]
        other, increase = perplexity([-one.log_probability for one in theirs], counts), perplexity(more, counts, minus=1.0)
        return Perplexities(len(ours), own, other, increase, look.level, text.gate.max_perplexity_increase)

    if against is None:
        return look_at(Look(min(text.num_pieces, len(pieces)), 0.95))
    return until_decided(text.looks(len(pieces)), look_at)
