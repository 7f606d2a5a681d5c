"""A contender, alone or against another, on every text and set of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.errors import UserError
from optimizer.assessment.bundle import BundleContender
from optimizer.assessment.contender import Contender
from optimizer.assessment.texts import Text, compared_by_text, compared_by_token, texts_of
from optimizer.evaluation import Estimate, ItemSet, Verdict, compare_on
from optimizer.evaluation.comparison import BATCH_ITEMS
from optimizer.evaluation.evaluation import rounded
from optimizer.evaluation.sets import Likelihood
from optimizer.records.progress import Reporter
from optimizer.search.items import open_sets
from optimizer.spec.sets_spec import SetsSpec

#: sets of items that need a bundle's own tokenizer or template
_OF_BUNDLES = {
    "retrieval": "its lengths are in tokens, which an endpoint does not count for us",
    "chat_template": "it compares templates, which an endpoint does not show",
}


@dataclass(frozen=True)
class Finding:
    """One figure of one text or set. `difference` has its interval; alone, a contender has none, nor a verdict."""

    name: str
    metric: str
    num_items: int
    candidate: float
    against: float | None
    difference: Estimate | None
    verdict: Verdict | None
    record: dict[str, object]


@dataclass(frozen=True)
class Assessment:
    candidate: str
    against: str | None
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is held against the candidate. What is inconclusive does not pass, as in `optimize`."""
        return all(finding.verdict is None or finding.verdict.passed for finding in self.findings)

    def record(self) -> dict[str, object]:
        """Plain data: what the table shows and more."""
        return {
            "candidate": self.candidate,
            "against": self.against,
            "passed": self.passed,
            "sets": {finding.name: finding.record for finding in self.findings},
        }


def assess(spec: SetsSpec, candidate: Contender, against: Contender | None, reporter: Reporter) -> Assessment:
    """Every text and set of `spec`, also behind one that fails. UserError, before anything is asked, where one cannot be."""
    both = [one for one in (candidate, against) if one is not None]
    texts = texts_of(spec)
    _check_texts(texts, candidate, against)
    _check_formats(spec, both, against)
    sets = open_sets(spec.evaluation, (against or candidate).prompts, spec.seed, reporter)
    _check_scoring(sets, both)
    findings = [_on_text(text, candidate, against, spec.seed, reporter) for text in texts]
    for item_set in sets:
        with reporter.task(f"set {item_set.name}", len(item_set.items)) as advance:
            if against is None:
                findings.append(_alone(item_set, candidate, advance))
                continue
            comparison = compare_on(item_set, against, candidate, seed=spec.seed, on_item=advance)
        paired = comparison.paired(item_set.metric)
        findings.append(
            Finding(
                item_set.name,
                item_set.metric,
                paired.num_items,
                paired.candidate,
                paired.baseline,
                paired.difference,
                comparison.verdict,
                comparison.record(),
            )
        )
    return Assessment(candidate.label, None if against is None else against.label, tuple(findings))


def share_one_tokenizer(candidate: Contender, against: Contender | None) -> bool:
    """Whether both are bundles whose token ids mean the same, so that their distributions can be compared."""
    return (
        isinstance(candidate, BundleContender)
        and isinstance(against, BundleContender)
        and candidate.tokenizer_json == against.tokenizer_json
    )


def _check_texts(texts: Sequence[Text], candidate: Contender, against: Contender | None) -> None:
    for text in texts:
        for one in (candidate, against):
            if one is not None and not one.can_score:
                raise UserError(
                    f"text {text.name}: {one.label} cannot score it; that needs /v1/completions with echo and logprobs. Remove "
                    "the text"
                )
        limits = [name for name in ("max_kl", "min_top1_agreement") if getattr(text.gate, name) is not None]
        if limits and against is not None and not share_one_tokenizer(candidate, against):
            raise UserError(
                f"text {text.name}: gate.{limits[0]} compares whole distributions, which only two bundles with one tokenizer "
                "have; use gate.max_perplexity_increase"
            )


def _check_formats(spec: SetsSpec, both: Sequence[Contender], against: Contender | None) -> None:
    for one in spec.evaluation.sets:
        endpoint = next((contender for contender in both if not isinstance(contender, BundleContender)), None)
        if one.format in _OF_BUNDLES and endpoint is not None:
            raise UserError(f"set {one.name}: {endpoint.label} cannot be asked: {_OF_BUNDLES[one.format]}; remove the set")
        if one.format == "chat_template" and against is None:
            raise UserError(f"set {one.name}: it compares a bundle with another; give it with --against, or remove the set")


def _check_scoring(sets: Sequence[ItemSet], both: Sequence[Contender]) -> None:
    for item_set in sets:
        for one in both:
            questions = item_set.questions(item_set.items[0], one.prompts)
            if any(isinstance(question, Likelihood) for question in questions) and not one.can_score:
                raise UserError(
                    f"set {item_set.name}: {one.label} cannot score its choices; that needs /v1/completions with echo and "
                    "logprobs. Remove the set"
                )


def _on_text(text: Text, candidate: Contender, against: Contender | None, seed: int, reporter: Reporter) -> Finding:
    with reporter.task(f"text {text.name}", text.max_pieces) as advance:
        if share_one_tokenizer(candidate, against):
            assert isinstance(candidate, BundleContender) and isinstance(against, BundleContender)
            compared = compared_by_token(text, candidate, against, seed, advance)
            evaluation, verdict = compared.evaluation, compared.verdict
            record = _text_record(verdict, compared.record())
            values = (evaluation.perplexity.value, evaluation.baseline_perplexity.value, evaluation.perplexity_increase)
            return Finding(text.name, "perplexity", evaluation.num_sequences, *values, verdict, record)
        found = compared_by_text(text, candidate, against, seed, advance)
    figures: dict[str, object] = {
        name: {end: rounded(number) for end, number in asdict(value).items()}
        for name in ("candidate", "against", "increase")
        if (value := getattr(found, name)) is not None
    }
    figures |= {"num_pieces": found.num_pieces, "level": rounded(found.level)}
    if found.against is None or found.increase is None:
        return Finding(text.name, "perplexity", found.num_pieces, found.candidate.value, None, None, None, figures)
    record, verdict = _text_record(found.verdict, figures), found.verdict
    return Finding(
        text.name, "perplexity", found.num_pieces, found.candidate.value, found.against.value, found.increase, verdict, record
    )


def _text_record(verdict: Verdict, figures: dict[str, object]) -> dict[str, object]:
    return {"format": "text", "outcome": verdict.outcome, "checks": [str(check) for check in verdict.checks], **figures}


def _alone(item_set: ItemSet, candidate: Contender, advance: Any) -> Finding:
    """The mean score and its interval, with nothing to hold it against."""
    marked = []
    for start in range(0, len(item_set.items), BATCH_ITEMS):
        batch = item_set.items[start : start + BATCH_ITEMS]
        marked += candidate.results(item_set, batch)
        for _ in batch:
            advance()
    scores = {metric: [one.scores[metric] for one in marked] for metric in item_set.metrics}
    means = {metric: sum(values) / len(values) for metric, values in scores.items()}
    record: dict[str, object] = {
        "format": item_set.format,
        "metric": item_set.metric,
        "num_items": len(marked),
        "scores": {metric: rounded(mean) for metric, mean in means.items()},
    }
    return Finding(item_set.name, item_set.metric, len(marked), means[item_set.metric], None, None, None, record)
