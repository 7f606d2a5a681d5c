"""The token sequences that accuracy is measured on: sampled from the unquantized model, and read from the user's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from artifacts.errors import UserError
from optimizer.evaluation import text_sequences
from optimizer.evaluation.confidence import MIN_SEQUENCES
from optimizer.records.progress import Reporter
from optimizer.spec import CalibrationSpec, EvaluationSpec
from runtime.engine_core import EngineCore
from runtime.model_runner import ModelRunner
from runtime.request import Request, SamplingParams

Tokens = list[int]


@dataclass(frozen=True)
class TextSets:
    """Set name -> sequences: one half to search with, the other, never seen by the search, to prove with."""

    search: dict[str, list[Tokens]]
    proof: dict[str, list[Tokens]]


def sample_sequences(
    runner: ModelRunner, start_token: int, num_sequences: int, num_tokens: int, seed: int, reporter: Reporter
) -> list[Tokens]:
    """Sequences of `num_tokens` tokens drawn from the model at temperature 1, each from its own seed, `start_token` first."""
    engine = EngineCore(runner, eos_token_ids=())
    sequences: list[Tokens] = [[start_token] for _ in range(num_sequences)]
    for index in range(num_sequences):
        params = SamplingParams(temperature=1.0, seed=seed * num_sequences + index, max_tokens=num_tokens - 1)
        engine.add(Request(str(index), (start_token,), params))

    def steps() -> Iterator[None]:
        while engine.has_work():
            for output in engine.step():
                if output.error is not None:
                    raise output.error
                assert output.token_id is not None
                sequences[int(output.request_id)].append(output.token_id)
            yield

    waves = -(-num_sequences // runner.limits.max_num_seqs)
    for _ in reporter.track(steps(), "sampling text from the unquantized model", waves * (num_tokens - 1)):
        pass
    return sequences


def read_texts(spec: EvaluationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> TextSets:
    """The user's files as sets, each cut into sequences that begin with `prefix`, dealt to search and proof in turn.

    UserError for a file too short for both halves.
    """
    sets = TextSets({}, {})
    for path in spec.text:
        sequences = _sequences(spec, [path], 2 * spec.num_sequences, tokenizer, prefix)
        if len(sequences) < 2 * MIN_SEQUENCES:
            raise UserError(
                f"{path}: {2 * MIN_SEQUENCES} sequences of {spec.tokens_per_sequence} tokens are needed, half of them to "
                f"search with and half to prove with; got {len(sequences)}: give a longer text or lower tokens_per_sequence"
            )
        sets.search[path.stem], sets.proof[path.stem] = sequences[0::2], sequences[1::2]
    return sets


def proof_texts(spec: EvaluationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> dict[str, list[Tokens]]:
    """The sets of format `text`, which the search never sees: UserError for one too short for an interval."""
    texts = {}
    for one in spec.sets:
        if one.format != "text":
            continue
        assert one.path is not None, "the specification asks for it"
        texts[one.name] = _sequences(spec, [one.path], one.max_items or spec.num_sequences, tokenizer, prefix)
        if len(texts[one.name]) < MIN_SEQUENCES:
            raise UserError(
                f"{one.path}: {MIN_SEQUENCES} sequences of {spec.tokens_per_sequence} tokens are needed, got "
                f"{len(texts[one.name])}: give a longer text, raise max_items or lower tokens_per_sequence"
            )
    return texts


def read_calibration(spec: CalibrationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> list[Tokens]:
    """The user's files as calibration sequences, each beginning with `prefix`, from all parts of all files."""
    return _sequences(spec, spec.text, spec.num_sequences, tokenizer, prefix)


def _sequences(
    spec: EvaluationSpec | CalibrationSpec,
    paths: Sequence[Path],
    num_sequences: int,
    tokenizer: Tokenizer,
    prefix: Sequence[int],
) -> list[Tokens]:
    return text_sequences(
        paths,
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        num_tokens=spec.tokens_per_sequence,
        max_sequences=num_sequences,
        prefix=prefix,
    )
