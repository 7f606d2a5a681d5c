"""The token sequences that accuracy is measured on: sampled from the unquantized model, and read from the user's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from optimizer.evaluation import text_sequences
from optimizer.evaluation.confidence import MIN_SEQUENCES
from optimizer.progress import Reporter
from optimizer.spec import CalibrationSpec, EvaluationSpec
from runtime.engine import Engine
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
    engine = Engine(runner, eos_token_ids=())
    sequences: list[Tokens] = [[start_token] for _ in range(num_sequences)]
    for index in range(num_sequences):
        params = SamplingParams(temperature=1.0, seed=seed * num_sequences + index, max_tokens=num_tokens - 1)
        engine.add(Request(str(index), (start_token,), params))

    def steps() -> Iterator[None]:
        while engine.has_work():
            for output in engine.step():
                assert output.token_id is not None
                sequences[int(output.request_id)].append(output.token_id)
            yield

    waves = -(-num_sequences // runner.max_num_seqs)
    for _ in reporter.track(steps(), "sampling text from the unquantized model", waves * (num_tokens - 1)):
        pass
    return sequences


def read_texts(spec: EvaluationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> TextSets:
    """The user's files as sets, each cut into sequences that begin with `prefix`, dealt to search and proof in turn.

    ValueError for a file too short for both halves, or of the same name as another.
    """
    sets = TextSets({}, {})
    for path in spec.text:
        sequences = text_sequences(
            [path],
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            num_tokens=spec.tokens_per_sequence,
            max_sequences=2 * spec.num_sequences,
            prefix=prefix,
        )
        if len(sequences) < 2 * MIN_SEQUENCES:
            raise ValueError(
                f"{path}: {2 * MIN_SEQUENCES} sequences of {spec.tokens_per_sequence} tokens are needed, half of them to "
                f"search with and half to prove with; got {len(sequences)}: give a longer text or lower tokens_per_sequence"
            )
        name = path.stem
        if name in sets.search:
            raise ValueError(f"{path}: a set is called by its file's name, and there is another {name!r} already; rename one")
        sets.search[name], sets.proof[name] = sequences[0::2], sequences[1::2]
    return sets


def read_calibration(spec: CalibrationSpec, tokenizer: Tokenizer, prefix: Sequence[int]) -> list[Tokens]:
    """The user's files as calibration sequences, each beginning with `prefix`, from all parts of all files."""
    return text_sequences(
        spec.text,
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        num_tokens=spec.tokens_per_sequence,
        max_sequences=spec.num_sequences,
        prefix=prefix,
    )
