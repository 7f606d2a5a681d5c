"""The comparison with other engines: statistics, tables, and the protocol with a worker that is no engine."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from benchmarks.peers.float_model import degridded
from benchmarks.peers.gguf_export import write_f32_gguf
from benchmarks.peers.kept_scores import KeptScores, score_key
from benchmarks.peers.record import Entry, Record, Turn, without_folders
from benchmarks.peers.statistics import ratio_of_medians
from benchmarks.peers.table import compare as compare_entries
from benchmarks.peers.table import comparisons_grid, medians_grid
from benchmarks.peers.worker_process import WorkerError, WorkerProcess
from benchmarks.peers.works import FULL, WARM_UP, Prompts, Work
from optimizer.evaluation import SequenceScore

ROOT = Path(__file__).parents[2]
ADAPTER = """
import os, time
import numpy as np

print("chatter of a library")


class Adapter:
    def load(self, model, num_threads, max_tokens):
        os.write(1, b"chatter of a C library\\n")
        return {"flags": {"model": model}}

    def generate(self, prompt, num_tokens):
        if prompt == [0]:
            os._exit(3)
        tokens, times = [], []
        for i in range(num_tokens - (prompt == [1])):
            tokens.append(prompt[-1] + i)
            times.append(time.perf_counter())
        return tokens, times

    def batch(self, prompts, num_tokens):
        return [[prompt[0]] * num_tokens for prompt in prompts]

    def logits(self, tokens):
        # Padded by one, as some engines pad their vocabulary.
        return np.array([[token, 2.0 * token, 0.0, 99.0] for token in tokens], np.float32)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    (tmp_path / "fake.py").write_text(ADAPTER)
    process = WorkerProcess(Path(sys.executable), tmp_path / "fake.py", tmp_path / "fake.log")
    yield process
    process.close()


def test_a_worker_answers_whatever_the_engine_prints_and_scores_by_the_gate(worker: WorkerProcess, tmp_path: Path) -> None:
    facts = worker.ask("load", model="m", num_threads=1, max_tokens=8)
    assert facts["flags"] == {"model": "m"} and facts["load_s"] >= 0
    decoded = worker.ask("decode", prompt=[5], num_tokens=3)
    assert decoded["tokens"] == [5, 6, 7] and 0 <= decoded["ttft_s"] < 5 and decoded["decode_s"] >= 0
    assert worker.ask("batch", prompts=[[7], [8]], num_tokens=2)["tokens"] == [[7, 7], [8, 8]]
    # The reference has a vocabulary of 3 and is the candidate plus a constant per row, but for one row.
    sequences, reference = [[1, 0, 2], [2, 1]], tmp_path / "reference.npy"
    rows = np.array([[1, 2, 0], [0, 0, 0], [3, 4, 0]], np.float32) + np.array([[5], [7], [0]], np.float32)
    np.save(reference, rows)
    scores = [SequenceScore(**score) for score in worker.ask("kl", sequences=sequences, reference=str(reference))["scores"]]
    p, q = (torch.log_softmax(torch.tensor(z, dtype=torch.float64), 0) for z in ([3.0, 4.0, 0.0], [2.0, 4.0, 0.0]))
    assert scores[0].kl == pytest.approx(0, abs=1e-7) and scores[0].num_tokens == 2
    assert scores[1].kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-6)


def test_a_failing_engine_is_an_error_that_names_it(worker: WorkerProcess) -> None:
    worker.ask("load", model="m", num_threads=1, max_tokens=8)
    with pytest.raises(WorkerError, match="fake failed to decode: ValueError: asked for 3 tokens, got 2"):
        worker.ask("decode", prompt=[1], num_tokens=3)
    with pytest.raises(WorkerError, match=r"fake ended while asked to decode \(exit status 3"):
        worker.ask("decode", prompt=[0], num_tokens=3)


def test_an_idle_worker_is_stopped_and_its_memory_counted(worker: WorkerProcess) -> None:
    worker.ask("load", model="m", num_threads=1, max_tokens=8)
    stat = Path(f"/proc/{worker.pid}/stat")
    deadline = time.monotonic() + 5
    while (state := stat.read_text().rpartition(")")[2].split()[0]) != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state == "T"
    memory = worker.memory_bytes()
    assert memory["resident"] == memory["anonymous"] + memory["file"] + memory["shared"] > 1 << 20


def test_a_stopped_worker_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "fake.py").write_text(ADAPTER)
    parent = f"""
import os
from pathlib import Path
from benchmarks.peers.worker_process import WorkerProcess
worker = WorkerProcess(Path({sys.executable!r}), Path({str(tmp_path)!r}) / "fake.py", Path({str(tmp_path)!r}) / "log")
worker.ask("load", model="m", num_threads=1, max_tokens=8)
print(worker.pid, flush=True)
os._exit(1)
"""
    ended = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=False)
    status, deadline = Path(f"/proc/{int(ended.stdout)}/stat"), time.monotonic() + 5
    while is_alive(status) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(status)


def is_alive(stat: Path) -> bool:
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_a_score_is_kept_until_something_that_it_hangs_on_changes(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")

    def key(kind: str = "", package: str = "engine==1", threads: int = 2, tokens: tuple[int, ...] = (1, 2)) -> str:
        return score_key(f"{weights}{kind}", "vllm", [package], [threads], [tokens])

    first = key()
    kept = KeptScores(tmp_path / "scores.json")
    assert kept.get(first) is None
    kept.keep(first, {"kl": {"value": 0.5}})
    assert KeptScores(tmp_path / "scores.json").get(key()) == {"kl": {"value": 0.5}}
    changed = [key("#f32"), key(package="engine==2"), key(threads=1), key(tokens=(1, 3))]
    (weights / "a.bin").write_bytes(b"2")
    changed.append(key())
    (weights / "a.bin").rename(weights / "b.bin")
    changed.append(key())
    assert len({first, *changed}) == 7


def test_a_run_goes_on_with_its_own_file_alone_and_takes_no_turn_twice(tmp_path: Path) -> None:
    setting = {"command": "first", "date": "today", "num_threads": 2}
    record = Record(setting, FULL)
    record.entry("engine", "vllm", 16).memory["after_work"] = {"resident": 5}
    record.turns += [Turn("decode", "engine", index, 1.0, 0.0, "now") for index in (WARM_UP, 0)]
    record.write(tmp_path / "result.json")
    resumed = Record.read(tmp_path / "result.json").resumed({"command": "second", "date": "tomorrow", "num_threads": 2})
    assert resumed.setting["command"] == "first" and resumed.setting["resumed"] == [{"command": "second", "date": "tomorrow"}]
    assert resumed.entry("engine", "vllm", 16).memory["after_work"] == {"resident": 5}
    assert [resumed.has_turn("decode", "engine", index) for index in (WARM_UP, 0, 1)] == [False, True, False]
    with pytest.raises(ValueError, match="num_threads was 2 and is 3"):
        record.resumed({**setting, "num_threads": 3})


def test_a_ratio_is_of_medians_over_common_rounds_and_its_interval_covers_it() -> None:
    ratio = ratio_of_medians({0: 10.0, 1: 30.0, 2: 20.0, 3: 99.0}, {0: 10.0, 1: 10.0, 2: 8.0, 7: 1.0}, is_rate=True)
    assert (ratio.value, ratio.worst, ratio.best, ratio.num_rounds) == (2.0, 1.0, 3.0, 3)
    assert ratio.low <= ratio.value <= ratio.high
    times = ratio_of_medians({0: 1.0, 1: 2.0}, {0: 3.0, 1: 6.0}, is_rate=False)
    assert (times.value, times.low, times.high) == (3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="a round in which both"):
        ratio_of_medians({0: 1.0}, {1: 1.0}, is_rate=True)


def test_the_interval_agrees_with_every_possible_resample() -> None:
    """With 5 rounds there are 5^5 resamples, few enough to list."""
    ours, theirs = (np.random.default_rng(seed).lognormal(size=5) for seed in (1, 2))
    drawn = np.array(list(itertools.product(range(5), repeat=5)))
    every = np.median(ours[drawn], axis=1) / np.median(theirs[drawn], axis=1)
    low, high = np.quantile(every, [0.025, 0.975])
    ratio = ratio_of_medians(dict(enumerate(ours)), dict(enumerate(theirs)), is_rate=True)
    assert (ratio.low, ratio.high) == pytest.approx((low, high), rel=0.05)


def record() -> Record:
    works = (Work("decode", "decode", "decode", 8, 4), Work("prefill", "prompt", "prefill", 8, 1))
    found = Record({"cpu": "x"}, works)
    for name, engine, bits, kl, rate in (
        ("coldforge a", "ours", 4, 0.02, 200.0),
        ("fast but wrong", "llamacpp", 4, 0.05, 90.0),
        ("fastest and right", "openvino", 4, 0.01, 150.0),
        ("eight bits", "llamacpp", 8, 0.001, 400.0),
        ("broken", "vllm", 4, None, None),
    ):
        entry = found.entries[name] = Entry(name, engine, bits, artifact_bytes=1 << 20)
        entry.kl = None if kl is None else {"kl": {"value": kl}}
        if rate is None:
            entry.errors.append("did not start")
            continue
        for index in (WARM_UP, 0, 1, 2):
            # The warm-up is off by far, and counts nowhere.
            value = rate * (100 if index < 0 else 1)
            found.turns += [Turn("decode", name, index, value, 0.1, ""), Turn("prefill", name, index, 1e4 / value, 0.1, "")]
    found.entries["coldforge a"].memory = {"after_work": {"resident": 3 << 20}}
    found.entries["coldforge a"].facts = {"kv_bytes": 1 << 20}
    return found


def test_ours_is_compared_with_the_best_peer_of_its_width_that_is_no_more_accurate() -> None:
    comparisons = compare_entries(record())
    assert [(c.peer.name, c.is_fair, round(c.ratio.value, 6)) for c in comparisons] == [
        ("fast but wrong", True, round(200 / 90, 6)),
        ("fast but wrong", True, round(200 / 90, 6)),
    ]
    without = record()
    del without.entries["fast but wrong"]
    assert [(c.peer.name, c.is_fair) for c in compare_entries(without)] == [("fastest and right", False)] * 2
    assert "fastest and right *" in comparisons_grid(compare_entries(without)).markdown()


def test_tables_show_medians_and_what_was_not_measured_and_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "r.json"
    record().write(path)
    rows = medians_grid(Record.read(path)).rows
    assert rows[0] == ("coldforge a", "4", "0.02", "200", "50", "3 (1.50 x weights + KV)")
    assert rows[1] == ("broken", "4", "-", "-", "-", "-") and rows[-1][0] == "eight bits"
    assert medians_grid(record()).markdown().splitlines()[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert json.loads(path.read_text())["turns"][0]["round_index"] == -1


def test_a_record_names_files_without_their_folders() -> None:
    assert without_folders("run --model /a/b/m.gguf --bundle x=/c/d") == "run --model m.gguf --bundle x=d"
    assert without_folders("models/m.gguf at 3 tok/s (log: /a/b.log)") == "models/m.gguf at 3 tok/s (log: b.log)"


def test_prompts_are_the_same_for_all_engines_and_new_in_every_round() -> None:
    prompts, batch = Prompts(range(10_000)), next(work for work in FULL if work.kind == "batch")
    first = prompts.of(batch, 0)
    assert first == Prompts(range(10_000)).of(batch, 0) and first != prompts.of(batch, 1) != prompts.of(batch, WARM_UP)
    assert len(first) == 32 and {len(prompt) for prompt in first} == {128}
    with pytest.raises(ValueError, match="must have 1500 tokens for long"):
        Prompts(range(100)).of(FULL[3], 0)


def test_the_degridded_twin_is_the_same_function_and_its_gguf_the_same_model(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, tie_word_embeddings=True, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 64, (1, 12))
    with torch.no_grad():
        before = model(tokens).logits
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        twin = degridded(weights, config.to_dict(), seed=3)
        model.load_state_dict(twin, strict=False)
        assert torch.allclose(model(tokens).logits, before, atol=1e-5)
    assert all(not torch.equal(twin[name], weights[name]) for name in weights if "proj" in name)
    model.save_pretrained(tmp_path / "hf")
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    write_f32_gguf(tmp_path / "hf", tmp_path / "model.gguf")
    reader = GGUFReader(tmp_path / "model.gguf")
    by_name = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert np.array_equal(by_name["blk.1.ffn_down.weight"], stored["model.layers.1.mlp.down_proj.weight"].numpy())
    # llama.cpp rotates neighbours: row 1 of a head is row head_dim / 2 of transformers'.
    query = stored["model.layers.0.self_attn.q_proj.weight"].numpy()
    assert np.array_equal(by_name["blk.0.attn_q.weight"][:4], query[[0, 4, 1, 5]])


def test_experts_stand_together_in_the_gguf(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(
        vocab_size=64, **shape, num_key_value_heads=2, head_dim=8, num_local_experts=3, num_experts_per_tok=2,
        max_position_embeddings=64,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    model.save_pretrained(tmp_path / "hf")
    write_f32_gguf(tmp_path / "hf", tmp_path / "model.gguf")
    reader = GGUFReader(tmp_path / "model.gguf")
    by_name = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    mixture = model.model.layers[1].mlp
    gate, up = mixture.experts.gate_up_proj.detach().chunk(2, dim=1)
    assert np.array_equal(by_name["blk.1.ffn_gate_exps.weight"], gate.numpy())
    assert np.array_equal(by_name["blk.1.ffn_up_exps.weight"], up.numpy())
    assert np.array_equal(by_name["blk.1.ffn_down_exps.weight"], mixture.experts.down_proj.detach().numpy())
    assert np.array_equal(by_name["blk.1.ffn_gate_inp.weight"], mixture.gate.weight.detach().numpy())
    counts = {name: int(reader.fields[f"llama.{name}"].contents()) for name in ("expert_count", "expert_used_count")}
    assert counts == {"expert_count": 3, "expert_used_count": 2}
