"""Every key of a model.yaml and of a search space changes something that a run reads, or is refused.

A digest does not count: it covers a key that nothing else reads. A key that is new needs an entry in KEYS or SPACE_KEYS below.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from pydantic import BaseModel
from rich.console import Console
from tokenizers import Tokenizer

from artifacts.architecture import Architecture
from artifacts.precision import Scheme
from kernels.cpu.build import resolve_constants
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from optimizer.bundle.emit import answers_of
from optimizer.evaluation import Estimate, Evaluation, Gate
from optimizer.importers import Source, open_random, open_source
from optimizer.measure.workload import Workload, resolve_workload
from optimizer.quantization.packed import CPU_LAYOUT
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.search.accuracy import judge_all
from optimizer.search.items import open_sets, source_prompts
from optimizer.search.precision import PrecisionSearch, Trial
from optimizer.search.proof import finalists
from optimizer.search.texts import read_calibration, read_texts
from optimizer.search.warm_start import uniform_choices
from optimizer.spec import ModelSpec, load_spec
from optimizer.stages.job import Job
from optimizer.stages.sharing import start_workers
from optimizer.targets import offered_schemes, target_layout
from optimizer.targets.cpu import CpuTarget, _thread_counts
from optimizer.tuning.limits import StepTime, choose_size, tune_limits
from optimizer.weights.prepared_weights import prepared_weights
from runtime.server.sampling import GenerationDefaults
from search_spaces.located_yaml import LocatedError
from search_spaces.schema import SearchSpace
from search_spaces.space import load_space
from tests.optimizer.search.test_precision import BANDS, latency_ms, score
from tests.tiny_models import random_mixtral, save_tiny, write_lora

Json = dict[str, Any]
ITEMS = [{"question": f"What is {i} plus {i}?", "answer": f"{i} + {i} = {2 * i} #### {2 * i}"} for i in range(6)]
TEXT = "The river runs past the old mill, and nobody knows how long it has. " * 60
SET = {"format": "gsm8k", "path": "items.jsonl"}
CALIBRATED = {"method": "gptq", "calibration": {"text": ["text.txt"], "num_sequences": 2, "tokens_per_sequence": 16}}
TRIALS = [Trial(0, {}, 1.0, 0.04, -0.1), Trial(1, {}, 2.0, 0.01, -0.8), Trial(2, {}, 3.0, 0.02, -0.5)]
MEASURED = Evaluation(8, 800, *(Estimate(value, value, value) for value in (0.04, 0.95, 20.0, 19.9, 0.005)))


@dataclass(frozen=True)
class Key:
    """Two values of a key, in a file that is otherwise `beside`, and what they must make differ."""

    one: Any
    other: Any
    seen: Callable[[ModelSpec, Path], object]
    beside: Json = field(default_factory=dict)


def source(spec: ModelSpec, _: Path) -> Source:
    return open_source(spec.source, spec.adapter)


def job(spec: ModelSpec, folder: Path) -> Job:
    """A run that is set up: nothing is measured yet."""
    return Job.open(spec, folder, Reporter())


def search_texts(spec: ModelSpec, folder: Path) -> object:
    return read_texts(spec.evaluation, Tokenizer.from_str(source(spec, folder).tokenizer_json), []).search


def proof_looks(spec: ModelSpec, folder: Path) -> object:
    proof = read_texts(spec.evaluation, Tokenizer.from_str(source(spec, folder).tokenizer_json), []).proof
    return {name: text.looks for name, text in proof.items()}


def asked(spec: ModelSpec, folder: Path) -> object:
    prompts = source_prompts(source(spec, folder))
    sets = open_sets(spec.evaluation, prompts, spec.seed, Reporter(Console(quiet=True)))
    return [(s.name, s.margin, s.metric, [s.questions(item, prompts) for item in s.items]) for s in sets]


def calibrated_on(spec: ModelSpec, folder: Path) -> object:
    return read_calibration(spec.quantization.calibration, Tokenizer.from_str(source(spec, folder).tokenizer_json), [])


def codes(spec: ModelSpec, folder: Path) -> object:
    """How far those of one group are from its weights, and which experts stand apart."""
    model, quiet = source(spec, folder), Reporter(Console(quiet=True))
    store = prepared_weights(model, spec.quantization, {}, [[5, 6, 7, 8] * 4], folder, CPU_LAYOUT, quiet)
    return store.relative_error("layers.0.qkv", Scheme.parse("int4-g32-sym")), store.architecture.moe


def passes(spec: ModelSpec, _: Path) -> object:
    return [verdict.outcome for verdict in judge_all(Gate(**spec.gate.model_dump()), {"text": MEASURED}).values()]


def workload(spec: ModelSpec, _: Path) -> object:
    return resolve_workload(spec.workload, lambda prompt_tokens, output_tokens: (prompt_tokens + output_tokens) / 10)


def answers(spec: ModelSpec, folder: Path) -> object:
    return answers_of(spec, source(spec, folder))


def sampled_with(spec: ModelSpec, _: Path) -> object:
    return GenerationDefaults.from_config(spec.generation.over({}))


def default_study(spec: ModelSpec, folder: Path) -> object:
    return job(spec, folder) and (folder / "study.db").exists()


def num_processes(spec: ModelSpec, folder: Path) -> object:
    """That a search is shared among here; none of them is started."""
    processes: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("multiprocessing.context.SpawnProcess.start", lambda _: None)
        start_workers(cast(Job, SimpleNamespace(spec=spec, folder=folder / "study")), processes)
    return len(processes)


def num_trials(spec: ModelSpec, folder: Path) -> object:
    search = PrecisionSearch(Ledger("sqlite://", folder.name), BANDS, latency_ms, score, spec.seed)
    return len(search.run(uniform_choices(BANDS), spec.search.trials, spec.search.timeout_s, Reporter(Console(quiet=True))))


KEYS: dict[str, Key] = {
    "source": Key("tiny", "other", lambda spec, folder: source(spec, folder).architecture),
    "config": Key("tiny/config.json", "other/config.json",
        lambda spec, _: spec.config and open_random(spec.config).architecture, {"source": "random", "target": "h100"}),
    "adapter": Key("tuned", "retuned", lambda spec, folder: source(spec, folder).tensor("layers.0.qkv.weight")[0, 0]),
    "name": Key("a", "b", lambda spec, _: spec.output),
    "activations": Key("bf16", "f16", lambda spec, folder: vars(job(spec, folder).target)["act"], {"target": "h100"}),
    "target": Key("cpu", "h100", lambda spec, _: target_layout(spec.devices)),
    "output": Key("a", "b", lambda spec, _: spec.output),
    "seed": Key(0, 1, asked, {"evaluation": {"sets": [SET]}}),
    "evaluation.text": Key(["text.txt"], ["more.txt"], search_texts, {"evaluation": {"num_sequences": 4}}),
    "evaluation.num_sequences": Key(4, 5, search_texts, {"evaluation": {"text": ["text.txt"]}}),
    "evaluation.max_sequences": Key(
        8, 12, proof_looks, {"evaluation": {"text": ["text.txt"], "num_sequences": 4, "tokens_per_sequence": 16}}
    ),
    "evaluation.tokens_per_sequence": Key(16, 20, search_texts, {"evaluation": {"text": ["text.txt"]}}),
    "evaluation.sets.format": Key("retrieval", "chat_template", asked, {"evaluation": {"sets": [{}]}}),
    "evaluation.sets.path": Key("items.jsonl", "fewer.jsonl", asked),
    "evaluation.sets.name": Key("a", "b", asked),
    "evaluation.sets.margin": Key(0.02, 0.03, asked),
    "evaluation.sets.max_items": Key(3, 4, asked),
    "evaluation.sets.metric": Key("strict", "flexible", asked),
    "evaluation.sets.num_fewshot": Key(0, 1, asked),
    "evaluation.sets.chat": Key(False, True, asked),
    "evaluation.sets.max_tokens": Key(8, 9, asked),
    "evaluation.sets.context_tokens": Key([96], [400], asked, {"evaluation": {"sets": [{"format": "retrieval"}]}}),
    "quantization.transform": Key("none", "rotation", lambda spec, folder: job(spec, folder).base.transforms()),
    "quantization.method": Key("rtn", "gptq", codes),
    "quantization.clip": Key(False, True, codes),
    "quantization.calibration.text": Key(["text.txt"], ["more.txt"], calibrated_on, {"quantization": CALIBRATED}),
    "quantization.calibration.num_sequences": Key(2, 3, calibrated_on, {"quantization": CALIBRATED}),
    "quantization.calibration.tokens_per_sequence": Key(16, 20, calibrated_on, {"quantization": CALIBRATED}),
    "quantization.rare_experts": Key("0%", "90%", codes, {"source": "mixture", "quantization": CALIBRATED}),
    "gate.max_kl": Key(0.05, 0.03, passes),
    "gate.max_perplexity_increase": Key("1%", "0.4%", passes),
    "gate.min_top1_agreement": Key("90%", "99%", passes),
    "workload.prompt_tokens": Key(8, 9, workload),
    "workload.output_tokens": Key(8, 9, workload),
    "workload.concurrency": Key(1, 2, workload),
    "workload.arrival_rate_rps": Key(1, 2, workload),
    "workload.trace": Key("trace.jsonl", "busier.jsonl", workload),
    "workload.itl_ms": Key(10, 3, lambda spec, _: choose_size([8, 16], [2.0, 3.5], spec.workload.itl_ms)),
    "answers.tools": Key("json", "hermes", answers),
    "answers.reasoning": Key("none", "think", answers),
    "generation.temperature": Key(0.2, 0.7, sampled_with),
    "generation.top_p": Key(0.9, 0.8, sampled_with),
    "generation.top_k": Key(0, 20, sampled_with),
    "generation.min_p": Key(0.0, 0.1, sampled_with),
    "generation.repetition_penalty": Key(1.0, 1.1, sampled_with),
    "generation.max_new_tokens": Key(8, 9, sampled_with),
    "search.trials": Key(3, 4, num_trials),
    "search.timeout": Key("1h", 1e-9, num_trials, {"search": {"trials": 3}}),
    "search.storage": Key(None, "sqlite:///{folder}/own.db", default_study),
    "search.workers": Key(1, 2, num_processes),
    "search.choice": Key("fastest", "most_accurate", lambda spec, _: finalists(TRIALS, spec.search.choice, lambda t: t.number)),
    "search.space": Key("one.yaml", "two.yaml", lambda spec, _: load_space(spec.search.space)),
}  # fmt: skip

#: what is taken so that it can be refused with a reason
REFUSED = {"workload.ttft_ms": 300}


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key as it is written, those of sections and of lists of sections after a dot."""
    for name, info in model.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        nested = list(_models_in(info.annotation))
        yield from (inner for one in nested for inner in keys_of(one, f"{key}."))
        if not nested:
            yield key


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the keys name: two models, texts, sets, traces and spaces."""
    tmp_path = tmp_path_factory.mktemp("keys")
    for name in ("tiny", "other"):
        shutil.copytree(tiny_llama, tmp_path / name)
    save_tiny(tmp_path / "mixture", random_mixtral(300))
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.25}))
    write_lora(tmp_path / "tuned", lora_alpha=1)
    write_lora(tmp_path / "retuned", lora_alpha=2)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "more.txt").write_text(TEXT[10:])
    for name, items in (("items", ITEMS), ("fewer", ITEMS[1:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    for name, ms in (("trace", 1000), ("busier", 100)):
        requests = [{"timestamp": i * ms, "input_length": 20, "output_length": 10} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    (tmp_path / "one.yaml").write_text("serving: {max_num_seqs: [4]}\n")
    (tmp_path / "two.yaml").write_text("serving: {max_num_seqs: [8]}\n")
    return tmp_path


def written(folder: Path, key: str, value: Any, beside: Json) -> ModelSpec:
    """The specification that has `value` under `key`."""
    content: Json = {"source": "tiny"} | copy.deepcopy(beside)
    if isinstance(value, str):
        value = value.replace("{folder}", str(folder))
    at = content
    *sections, name = key.split(".")
    for section in sections:
        at = at.setdefault(section, [dict(SET)] if section == "sets" else {})
        at = at[0] if isinstance(at, list) else at
    at[name] = value
    (folder / "model.yaml").write_text(json.dumps(content))
    return load_spec(folder / "model.yaml")


def test_every_key_is_listed() -> None:
    keys = set(keys_of(ModelSpec))
    assert not (new := keys - KEYS.keys() - REFUSED.keys()), f"say in KEYS of {__file__} what {sorted(new)} changes"
    assert not (gone := (KEYS.keys() | REFUSED.keys()) - keys), f"remove {sorted(gone)} from KEYS of {__file__}"


@pytest.mark.parametrize("key", KEYS)
def test_a_key_changes_what_a_run_reads(folder: Path, tmp_path: Path, key: str) -> None:
    entry, seen = KEYS[key], []
    for number, value in enumerate((entry.one, entry.other)):
        work = tmp_path / f"work{number}"
        work.mkdir()
        seen.append(entry.seen(written(folder, key, value, entry.beside), work))
    assert seen[0] != seen[1], f"{key} changes nothing: make it work, or refuse it"


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_is_not_honoured_is_refused(folder: Path, key: str) -> None:
    with pytest.raises(LocatedError, match=rf"{key}: .* got {REFUSED[key]}; remove the key"):
        written(folder, key, REFUSED[key], {})


ARCHITECTURE = Architecture(
    family="llama", vocab_size=99, hidden_size=64, intermediate_size=96, num_layers=2, num_q_heads=4, num_kv_heads=2,
    head_dim=16, max_position=1024, rms_norm_eps=1e-5,
)  # fmt: skip


def target(space: SearchSpace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> CpuTarget:
    """This machine, on which nothing is compiled."""
    monkeypatch.setattr(CpuTarget, "_with_library", lambda self, bench, constants: bench)
    return CpuTarget("cpu", space, folder, None, Reporter())  # type: ignore[arg-type]


def limits(space: SearchSpace) -> tuple[int, int]:
    found, _ = tune_limits(
        space.serving, ARCHITECTURE, Workload(100, 100, 4), None, kv_dtype="fp32", kv_block_size=16, cache_bytes=1 << 28,
        num_threads=1, measure=lambda size, decodes: StepTime(1, size, 100, 1.0),
    )  # fmt: skip
    return found.max_num_seqs, found.max_num_batched_tokens


def constants(space: SearchSpace) -> object:
    return {
        op: resolve_constants({n: v[0] for n, v in kernel.constants.items()}, best_isa(host()))
        for op, kernel in space.kernels.items()
    }


SPACE_KEYS: dict[str, Callable[[SearchSpace, CpuTarget], object]] = {
    **{
        f"precision.groups.{kind}": lambda space, _, kind=kind: offered_schemes(space, ("cpu",), [kind], ARCHITECTURE)  # type: ignore[misc]
        for kind in ("embed", "head", "qkv", "o", "gate_up", "down")
    },
    "precision.kv_cache": lambda _, cpu: cpu.kv_dtypes(ARCHITECTURE),
    "serving.kv_block_size": lambda _, cpu: cpu.workbench(_Store()).kv_block_size,  # type: ignore[arg-type]
    "serving.max_num_seqs": lambda space, _: limits(space)[0],
    "serving.max_num_batched_tokens": lambda space, _: limits(space)[1],
    "serving.threads": lambda space, _: len(_thread_counts(space.serving.threads)),
    "kernels.constants": lambda space, _: constants(space),
}


class _Store:
    architecture = ARCHITECTURE


def test_every_key_of_a_space_is_listed() -> None:
    keys = set(keys_of(SearchSpace))
    assert keys == SPACE_KEYS.keys(), f"say in SPACE_KEYS of {__file__} what a key of a search space changes"


def last_alone(value: Any) -> Any:
    """Every list of candidates cut to its last."""
    return {name: last_alone(inner) for name, inner in value.items()} if isinstance(value, dict) else value[-1:]


@pytest.mark.parametrize("key", SPACE_KEYS)
def test_a_key_of_a_space_changes_what_is_offered(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = load_space()
    change: Any = shipped.model_dump(mode="json")
    if key == "kernels.constants":
        change = {"kernels": last_alone(change["kernels"])}
    else:
        for section in key.split("."):
            change = change[section]
        change = [min(change)] if key.startswith("serving.max") else last_alone(change)
        for section in reversed(key.split(".")):
            change = {section: change}
    (tmp_path / "space.yaml").write_text(json.dumps(change))
    changed, seen = load_space(tmp_path / "space.yaml"), SPACE_KEYS[key]
    assert seen(changed, target(changed, tmp_path, monkeypatch)) != seen(shipped, target(shipped, tmp_path, monkeypatch))
