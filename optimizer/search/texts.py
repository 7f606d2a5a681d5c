"""The token sequences that accuracy is measured on: sampled from the unquantized model, and read from the user's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from artifacts.errors import UserError
from optimizer.evaluation import Look, evenly_spaced, spread, text_looks, text_sequences
from optimizer.evaluation.confidence import MIN_SEQUENCES
from optimizer.records.progress import Reporter
from optimizer.spec import CalibrationSpec, EvaluationSpec
from runtime.engine_core import EngineCore
from runtime.model_runner import ModelRunner
from runtime.request import Request, SamplingParams

Tokens = list[int]


@dataclass(frozen=True)
class ProofText:
    """A text to prove on, heard look by look. `sequences(a, b)` gives its sequences a to b, always the same ones."""

    looks: tuple[Look, ...]
    sequences: Callable[[int, int], list[Tokens]]

    @classmethod
    def of(cls, sequences: Sequence[Tokens], first: int, most: int) -> ProofText:
        """Some of these, spread over all of them at each look."""
        kept = [sequences[i] for i in spread(len(sequences))[:most]]
        return cls(text_looks(first, len(kept)), lambda start, stop: kept[start:stop])

    @property
    def first(self) -> list[Tokens]:
        """What every candidate is heard on."""
        return self.sequences(0, self.looks[0].size)


@dataclass(frozen=True)
class TextSets:
    """By name: sequences to search with, and texts to prove with, which the search never sees.

    `own` names those that the unquantized model drew, at temperature 1.
    """

    search: dict[str, list[Tokens]]
    proof: dict[str, ProofText]
    own: frozenset[str] = frozenset()


def sample_sequences(
    runner: ModelRunner, start_token: int, seeds: Sequence[int], num_tokens: int, reporter: Reporter
) -> list[Tokens]:
    """Sequences of `num_tokens` tokens drawn from the model at temperature 1, one from each of `seeds`, `start_token` first."""
    engine = EngineCore(runner, eos_token_ids=())
    sequences: list[Tokens] = [[start_token] for _ in seeds]
    for index, seed in enumerate(seeds):
        params = SamplingParams(temperature=1.0, seed=seed, max_tokens=num_tokens - 1)
        engine.add(Request(str(index), (start_token,), params))

    def steps() -> Iterator[None]:
        while engine.has_work():
            for output in engine.step():
                if output.error is not None:
                    raise output.error
                assert output.token_id is not None
                sequences[int(output.request_id)].append(output.token_id)
            yield

    waves = -(-len(sequences) // runner.limits.max_num_seqs)
    for _ in reporter.track(steps(), "sampling text from the unquantized model", waves * (num_tokens - 1)):
        pass
    return sequences


def read_texts(spec: EvaluationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> TextSets:
    """The user's files as sets, each cut into sequences that begin with `prefix`.

    The search gets at most `num_sequences`, evenly spaced, and half of a short file; the proof gets the others.
    UserError for a file too short for both.
    """
    sets = TextSets({}, {})
    for path in spec.text:
        sequences = _sequences(spec, [path], tokenizer, prefix)
        if len(sequences) < 2 * MIN_SEQUENCES:
            raise UserError(
                f"{path}: {2 * MIN_SEQUENCES} sequences of {spec.tokens_per_sequence} tokens are needed, half of them to "
                f"search with and half to prove with; got {len(sequences)}: give a longer text or lower tokens_per_sequence"
            )
        seen = evenly_spaced(len(sequences), 2 * spec.num_sequences)[0::2]
        unseen = sorted(set(range(len(sequences))) - set(seen))
        sets.search[path.stem] = [sequences[i] for i in seen]
        sets.proof[path.stem] = ProofText.of([sequences[i] for i in unseen], spec.num_sequences, spec.most_sequences)
    return sets


def proof_texts(spec: EvaluationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> dict[str, ProofText]:
    """The sets of format `text`, which the search never sees: UserError for one too short for an interval."""
    texts = {}
    for one in spec.sets:
        if one.format != "text":
            continue
        assert one.path is not None, "the specification asks for it"
        text = ProofText.of(
            _sequences(spec, [one.path], tokenizer, prefix), spec.num_sequences, one.max_items or spec.most_sequences
        )
        if (most := text.looks[-1].size) < MIN_SEQUENCES:
            raise UserError(
                f"{one.path}: {MIN_SEQUENCES} sequences of {spec.tokens_per_sequence} tokens are needed, got "
                f"{most}: give a longer text, raise max_items or lower tokens_per_sequence"
            )
        texts[one.name] = text
    return texts


def read_calibration(spec: CalibrationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> list[Tokens]:
    """The user's files as calibration sequences, each beginning with `prefix`, from all parts of all files."""
    sequences = _sequences(spec, spec.text, tokenizer, prefix)
    return [sequences[i] for i in evenly_spaced(len(sequences), spec.num_sequences)]


def _sequences(
    spec: EvaluationSpec | CalibrationSpec,
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    prefix: Sequence[int],
) -> list[Tokens]:
    return text_sequences(
        paths,
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        num_tokens=spec.tokens_per_sequence,
        prefix=prefix,
    )
