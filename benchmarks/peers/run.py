"""The run: set up, export, score, then turns A B A B. An engine that fails is named with its reason; the others go on."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer

from artifacts.precision import Scheme
from artifacts.reader import read_manifest
from benchmarks.peers.engines import ENGINES, Variant
from benchmarks.peers.environments import SetupFailed, set_up
from benchmarks.peers.exports import export
from benchmarks.peers.kept_scores import KeptScores, score_key
from benchmarks.peers.record import Entry, Record, Turn, without_folders
from benchmarks.peers.worker_process import ADAPTERS, WorkerError, WorkerProcess
from benchmarks.peers.works import WARM_UP, Prompts, Work
from kernels.cpu.host import host
from optimizer.evaluation import Evaluation, SequenceScore, text_sequences

#: vLLM compiles its model when it first starts
LOAD_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Contender:
    """What it takes to start an entry's worker: its Python, its adapter, and what to load."""

    entry: Entry
    python: Path
    model: str

    def start(self, logs: Path, num_threads: int) -> WorkerProcess:
        log = logs / f"{re.sub(r'[ ,]+', '-', self.entry.name)}.log"
        environment = {"OMP_NUM_THREADS": str(num_threads)}
        if (engine := ENGINES.get(self.entry.engine)) and engine.preloaded:
            environment["LD_PRELOAD"] = ":".join(str(self.python.parents[1] / path) for path in engine.preloaded)
        return WorkerProcess(self.python, ADAPTERS / f"{self.entry.engine}.py", log, environment)


@dataclass(frozen=True)
class Options:
    """How to run: threads of every engine, rounds that count, and the text that KL is measured on."""

    num_threads: int
    num_rounds: int
    kl_sequences: int
    kl_tokens: int
    logs: Path
    results: Path

    def max_tokens(self, works: Sequence[Work]) -> int:
        """The context that every engine is loaded with."""
        return max(self.kl_tokens, *(work.prompt_tokens + work.output_tokens for work in works)) + 1


def prepare(variants: Sequence[Variant], folder: Path, home: Path, record: Record, console: Console) -> list[Contender]:
    """Every peer that can be set up and has its weights; the errors of the others are in the record."""
    pythons: dict[str, Path | str] = {}
    for name in dict.fromkeys(variant.engine for variant in variants):
        console.print(f"setting up {ENGINES[name].title}", markup=False)
        try:
            pythons[name] = set_up(ENGINES[name], home)
        except SetupFailed as error:
            pythons[name] = str(error)
    contenders = []
    for variant in variants:
        entry = record.entry(variant.name, variant.engine, variant.bits)
        python = pythons[variant.engine]
        try:
            if isinstance(python, str):
                raise SetupFailed(python)
            console.print(f"weights of {variant.name}", markup=False)
            artifact = export(variant, folder, home)
        except (SetupFailed, ValueError) as error:
            fail(entry, error, console)
            continue
        entry.artifact_bytes = _size(artifact)
        # What follows a # is for the adapter.
        contenders.append(Contender(entry, python, str(folder / variant.artifact)))
    return contenders


def bundle_contender(name: str, bundle: Path, record: Record) -> Contender:
    """A bundle of ours; its width is that of most of its weights."""
    manifest = read_manifest(bundle)
    weights: dict[int, int] = {}
    for group, (rows, columns) in manifest.architecture.linear_shapes().items():
        bits = int(Scheme.parse(manifest.precision.groups[group]).bits_per_weight)  # without scales
        weights[bits] = weights.get(bits, 0) + rows * columns
    entry = record.entry(f"coldforge {name}", "ours", max(weights, key=lambda bits: weights[bits]))
    entry.artifact_bytes = _size(bundle / "weights")
    return Contender(entry, Path(sys.executable), str(bundle.resolve()))


def fail(entry: Entry, error: Exception, console: Console) -> None:
    entry.errors.append(without_folders(str(error)))
    console.print(f"{entry.name}: {error}", style="red", markup=False, soft_wrap=True)


class Run:
    """Measures contenders and keeps the record on disk as it goes."""

    def __init__(self, record: Record, contenders: Sequence[Contender], options: Options, console: Console) -> None:
        self._record, self._contenders, self._options, self._console = record, list(contenders), options, console
        self._max_tokens = options.max_tokens(record.works)

    def score(self, float_model: Path, text: Path, scratch: Path) -> None:
        """Every contender's KL to the float model in transformers' fp32, each in a worker of its own, one at a time.

        `scratch` keeps the peers'; ours are measured in every run, because it is our code that changes.
        """
        tokenizer = Tokenizer.from_file(str(float_model / "tokenizer.json"))
        sequences = text_sequences(
            [text],
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            num_tokens=self._options.kl_tokens,
            max_sequences=self._options.kl_sequences,
        )
        kept, settings = KeptScores(scratch / "scores.json"), (self._options.num_threads, host().model)
        missing: list[tuple[Contender, str | None]] = []
        for contender in self._contenders:
            entry, key = contender.entry, None
            if not entry.is_ours:
                key = score_key(contender.model, entry.engine, ENGINES[entry.engine].packages, settings, sequences)
                entry.kl = kept.get(key)
            if entry.kl is None:
                missing.append((contender, key))
            else:
                self._say(f"{entry.name}: KL {entry.kl_value:.4g} nats per token, measured before")
        if not missing:
            return
        stored = scratch / f"reference-{os.getpid()}.npy"
        reference = Contender(Entry("reference", "transformers", 32), Path(sys.executable), str(float_model))
        try:
            with self._loaded(reference) as worker:
                worker.ask("reference", sequences=sequences, out=str(stored))
            for contender, key in missing:
                with self._reported(contender), self._loaded(contender) as worker:
                    scores = worker.ask("kl", sequences=sequences, reference=str(stored))["scores"]
                    evaluation = Evaluation.of((SequenceScore(**score) for score in scores), seed=0)
                    contender.entry.kl = evaluation.record()
                    if key is not None:
                        kept.keep(key, contender.entry.kl)
                    self._say(f"{contender.entry.name}: KL {evaluation.kl.value:.4g} nats per token")
                self._save()
        finally:
            stored.unlink(missing_ok=True)

    def measure(self, prompts: Prompts, works: Sequence[Work]) -> None:
        """`works`, round after round, each contender in turn; a warm-up round comes first. Turns in the record are kept."""
        workers: dict[str, WorkerProcess] = {}
        try:
            for contender in list(self._contenders):
                with self._reported(contender):
                    workers[contender.entry.name] = self._load(contender)
                    contender.entry.memory["after_load"] = workers[contender.entry.name].memory_bytes()
                self._save()
            for work in works:
                rounds = self._missing_rounds(work)
                for round_index in [WARM_UP, *rounds] if rounds else []:
                    for contender in list(self._contenders):
                        if not self._record.has_turn(work.name, contender.entry.name, round_index):
                            with self._reported(contender):
                                self._turn(contender, workers[contender.entry.name], work, round_index, prompts)
                            self._save()
                self._say(f"measured: {work.title}")
            for contender in self._contenders:
                contender.entry.memory["after_work"] = max(
                    workers[contender.entry.name].memory_bytes(),
                    contender.entry.memory.get("after_work", {"resident": 0}),
                    key=lambda memory: memory["resident"],
                )
            self._save()
        finally:
            for worker in workers.values():
                worker.close()

    def _missing_rounds(self, work: Work) -> list[int]:
        """Rounds in which some contender has had no turn yet."""
        num_rounds = min(self._options.num_rounds, work.max_rounds or self._options.num_rounds)
        names = [contender.entry.name for contender in self._contenders]
        return [i for i in range(num_rounds) if not all(self._record.has_turn(work.name, name, i) for name in names)]

    def _turn(self, contender: Contender, worker: WorkerProcess, work: Work, round_index: int, prompts: Prompts) -> None:
        given, load_average = prompts.of(work, round_index), os.getloadavg()[0]
        if work.kind == "start":
            result: dict[str, Any] = {"start_s": self._start_s(contender, given[0])}
        elif work.kind == "batch":
            result = worker.ask("batch", prompts=given, num_tokens=work.output_tokens)
        else:
            result = worker.ask("decode", prompt=given[0], num_tokens=work.output_tokens)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._record.turns.append(Turn(work.name, contender.entry.name, round_index, work.value(result), load_average, at))

    def _start_s(self, contender: Contender, prompt: list[int]) -> float:
        """Seconds from the start of a process, interpreter and imports included, to its first token; files are cached."""
        start = time.perf_counter()
        with self._loaded(contender) as worker:
            worker.ask("decode", prompt=prompt, num_tokens=1)
            return time.perf_counter() - start

    @contextmanager
    def _loaded(self, contender: Contender) -> Iterator[WorkerProcess]:
        worker = self._load(contender)
        try:
            yield worker
        finally:
            worker.close()

    def _load(self, contender: Contender) -> WorkerProcess:
        worker = contender.start(self._options.logs, self._options.num_threads)
        try:
            contender.entry.facts = worker.ask(
                "load",
                timeout_s=LOAD_TIMEOUT_S,
                model=contender.model,
                num_threads=self._options.num_threads,
                max_tokens=self._max_tokens,
            )
        except BaseException:
            worker.close()
            raise
        return worker

    @contextmanager
    def _reported(self, contender: Contender) -> Iterator[None]:
        """An engine that fails is out of the run, and the record says why."""
        try:
            yield
        except WorkerError as error:
            fail(contender.entry, error, self._console)
            self._contenders.remove(contender)

    def _save(self) -> None:
        self._record.write(self._options.results)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
