"""Stage: the sequences that accuracy is measured and weights are calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.errors import UserError
from optimizer.evaluation import text_looks
from optimizer.measure.workbench import Workbench
from optimizer.records.plan_digest import plan_digest
from optimizer.records.record_key import record_key
from optimizer.search.texts import ProofText, TextSets, Tokens, proof_texts, read_calibration, read_texts, sample_sequences
from optimizer.stages.job import Job
from runtime.prompts import Prompts

SAMPLED = "sampled"
_SAMPLING_SEQS = 32
#: Calibration text is drawn from seeds that no evaluation text has, whatever the specification's seed (below 2^32).
_CALIBRATION_SEED = 1 << 40


@dataclass(frozen=True)
class TextStage:
    """Reads the user's files; without any, the unquantized model writes, on the kernels of `workbench`."""

    job: Job
    prompts: Prompts
    workbench: Workbench

    def run(self) -> TextSets:
        """What the search sees, and what finalists are proved on."""
        evaluation, tokenizer = self.job.spec.evaluation, self.prompts.tokenizer
        proof = proof_texts(evaluation, tokenizer, self._prefix)
        if evaluation.text:
            texts = read_texts(evaluation, tokenizer, self._prefix)
            texts = TextSets(texts.search, texts.proof | proof)
            self._check_files(texts)
            return texts
        num_sequences = evaluation.num_sequences
        sequences = self._own("texts/sampled", 0, 2 * num_sequences)

        def unseen(start: int, stop: int) -> list[Tokens]:
            """Half of what was sampled at once; any more are sampled when they are needed."""
            more = self._own("texts/proof", num_sequences + max(start, num_sequences), num_sequences + stop)
            return [*sequences[1::2][start:stop], *more]

        self._check_files(TextSets({}, proof))
        own = ProofText(text_looks(num_sequences, evaluation.most_sequences), unseen)
        return TextSets({SAMPLED: sequences[0::2]}, {SAMPLED: own} | proof, frozenset({SAMPLED}))

    def calibration(self) -> list[Tokens]:
        """What the inputs of layer groups are calibrated on."""
        spec, seed = self.job.spec.quantization.calibration, _CALIBRATION_SEED + self.job.spec.seed
        if spec.text:
            sequences = read_calibration(spec, self.prompts.tokenizer, self._prefix)
            self._check("calibration text", sequences)
            return sequences
        seeds = [seed * spec.num_sequences + index for index in range(spec.num_sequences)]
        return self._sampled("texts/calibration", seeds, spec.tokens_per_sequence)

    def _own(self, name: str, start: int, stop: int) -> list[Tokens]:
        """Sequences `start` to `stop` of those that accuracy is measured on, each with a seed of its own."""
        evaluation = self.job.spec.evaluation
        first = self.job.spec.seed * 2 * evaluation.num_sequences
        seeds = [first + index for index in range(start, stop)]
        return self._sampled(name, seeds, evaluation.tokens_per_sequence) if seeds else []

    def _sampled(self, name: str, seeds: Sequence[int], num_tokens: int) -> list[Tokens]:
        # What it draws from is what plans are compared with: the KL of a token is then what a plan is expected to lose there.
        bench, plan = self.job.unquantized(self.workbench.exact())
        num_tokens = min(num_tokens, bench.architecture.max_position)
        start = self._prefix[0] if self._prefix else self._start_token()

        def sample() -> list[Tokens]:
            num_kv_tokens = _SAMPLING_SEQS * (num_tokens + bench.kv_block_size)
            runner = bench.runner(plan, max(_SAMPLING_SEQS, 64), num_kv_tokens, _SAMPLING_SEQS)
            return sample_sequences(runner, start, seeds, num_tokens, self.job.reporter)

        key = record_key(
            name,
            model=self.job.sources,
            plan=plan_digest(plan, bench.kv_dtype),
            numbers=bench.numbers,
            start=start,
            seeds=seeds,
            num_tokens=num_tokens,
        )
        return self.job.ledger.once(key, sample)

    def _check_files(self, texts: TextSets) -> None:
        """UserError where the model has no row for a token of `texts`, which are of files."""
        for name, sequences in texts.search.items():
            self._check(name, sequences)
        for name, proof in texts.proof.items():
            self._check(name, proof.sequences(0, proof.looks[-1].size))

    def _check(self, name: str, sequences: Sequence[Tokens]) -> None:
        num_rows, most = self.job.source.architecture.vocab_size, max(map(max, sequences))
        if most >= num_rows:
            raise UserError(
                f"{name}: token ids must be below {num_rows}, the rows of the model's embedding, got {most}; the tokenizer is "
                "another model's, or the text has a token that the model was not made for"
            )

    @property
    def _prefix(self) -> list[int]:
        """What the tokenizer begins every text with."""
        return self.prompts.tokenizer.encode("").ids

    def _start_token(self) -> int:
        """What a text begins with for a model whose tokenizer adds nothing: its BOS, or its EOS, which separates texts."""
        for key in ("bos_token_id", "eos_token_id"):
            token = self.job.source.generation_config.get(key)
            token = token[0] if isinstance(token, list) and token else token
            if isinstance(token, int):
                return token
        return 0
