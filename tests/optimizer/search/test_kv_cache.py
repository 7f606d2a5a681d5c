"""What is decided once for all plans: on every sequence, over a KV cache that loses nothing, on the portable references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifacts.precision import KvDtype, Scheme
from optimizer.evaluation import BaselineStore, Gate, compare
from optimizer.evaluation.metrics import Logits
from optimizer.importers import open_source
from optimizer.measure.workbench import CpuWorkbench, KvRangeError
from optimizer.records.ledger import Ledger
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.search.accuracy import Judge
from optimizer.search.kv_cache import KvLoss, lossless_enough, measure_kv_losses, no_cache_passes, worth_searching
from optimizer.search.refusal import explain
from optimizer.weights.quantized_store import QuantizedStore
from tests.optimizer.large_keys import save_model

NUM_SEQUENCES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kv")


@pytest.fixture(scope="module")
def judge(folder: Path) -> Judge:
    """Over a model whose key biases are 200, and sequences of which the first loses nothing: all its tokens are alike."""
    return judge_of(folder, key_bias=200.0)


def random_texts(number: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(4, 256, (32,), generator=generator).tolist() for _ in range(number)]


TEXTS = [[9] * 32, *random_texts(NUM_SEQUENCES - 1)]


class AlwaysOf(BaselineStore):
    """As if every sequence of a set were the one at `index`."""

    def __init__(self, store: BaselineStore, index: int) -> None:
        self._store, self._index = store, index

    def logits(self, index: int) -> Logits:
        return self._store.logits(self._index)


def judge_of(folder: Path, key_bias: float, texts: list[list[int]] = TEXTS) -> Judge:
    source = open_source(save_model(folder / f"bias-{key_bias}", key_bias=key_bias))
    bench = CpuWorkbench(source.architecture, QuantizedStore(source, folder / f"weights-{key_bias}"), "fp32", 16, None, 1)
    exact = dict.fromkeys(source.architecture.linear_shapes(), Scheme("fp32"))
    return Judge.make(bench, exact, {"text": texts}, folder / f"baseline-{key_bias}", "model", 0, Reporter())


def test_a_cache_is_judged_by_its_mean_and_its_worst_sequence(judge: Judge, folder: Path) -> None:
    ledger = Ledger(f"sqlite:///{folder}/study.db", "losses")
    losses = measure_kv_losses(ledger, Reporter(), judge, ["bf16", "fp16", "int8", "fp32"])
    scores = judge.on("bf16").scores(judge.baseline)["text"]
    each = [score.kl / score.num_tokens for score in scores]
    assert each[0] < 1e-4, "the first sequence alone shows nothing"
    assert losses["bf16"].kl == pytest.approx(sum(each) / NUM_SEQUENCES)
    assert losses["bf16"].worst_kl == pytest.approx(max(each)) and max(each) > 0.1
    assert losses["bf16"].worst_sequence == f"sequence {each.index(max(each)) + 1} of {NUM_SEQUENCES} of text"
    assert losses["fp16"].kl < losses["bf16"].kl / 20
    assert losses["int8"].kl < losses["bf16"].kl / 20, "its codes are of keys less what all have in common"
    assert losses["fp32"] == KvLoss()
    assert losses == measure_kv_losses(ledger, Reporter(), judge, ["bf16", "fp16", "int8", "fp32"]), "each is a record"


def test_what_is_too_much() -> None:
    assert not KvLoss(0.049, 0.199, "").too_much(0.05)
    assert KvLoss(0.051, 0.06, "").too_much(0.05), "nothing is left for weights"
    assert KvLoss(0.02, 0.21, "").too_much(0.05), "one sequence breaks"
    assert KvLoss(refusal="out of range").too_much(0.05)


def test_the_least_loss_stays_where_all_are_too_much_and_a_gate_may_still_pass_it() -> None:
    spiky: dict[KvDtype, KvLoss] = {"bf16": KvLoss(0.03, 0.5), "int8": KvLoss(0.02, 0.6), "fp16": KvLoss(refusal="range")}
    assert list(worth_searching(spiky, 0.05)) == ["int8"]
    assert worth_searching({"bf16": KvLoss(0.2, 0.3)}, 0.05) == {}, "its mean alone is beyond the limit"
    assert list(worth_searching({"bf16": KvLoss(0.2, 0.3)}, None)) == ["bf16"], "a gate that does not limit KL may pass it"
    assert list(worth_searching(spiky | {"fp32": KvLoss()}, 0.05)) == ["fp32"]


def test_plans_that_try_weights_alone_have_the_fastest_cache_that_hardly_loses() -> None:
    losses: dict[KvDtype, KvLoss] = {"bf16": KvLoss(0.002), "fp16": KvLoss(0.0001), "fp32": KvLoss()}
    assert lossless_enough(losses, {"bf16": 1.0, "fp16": 1.1, "fp32": 2.0}, limit=0.05) == "fp16"
    assert lossless_enough({"bf16": KvLoss(0.02), "int8": KvLoss(0.01)}, {"bf16": 1.0, "int8": 1.1}, limit=0.05) == "int8"


def test_a_refusal_of_every_cache_says_what_was_measured_to_have_room() -> None:
    said = no_cache_passes(
        {"bf16": KvLoss(0.2, 0.9, "sequence 3 of 16 of sampled")}, {"fp16": KvLoss(0.001), "int8": KvLoss(0.4)}, 0.05
    )
    assert "bf16: alone it costs KL 0.2, and 0.9 in sequence 3 of 16 of sampled" in said
    assert said.endswith("with fp16 it is KL 0.001: offer it in search.space: precision.kv_cache")
    assert no_cache_passes({"bf16": KvLoss(0.2)}, {"int8": KvLoss(0.4)}, 0.05).endswith("no other has kernels here")


def test_a_probe_hears_the_last_half_of_what_several_sequences_begin_with(judge: Judge) -> None:
    """Each scored alone."""
    change = {"layers.0.qkv": Scheme.parse("int4-g32-asym")}
    plan = {**judge.baseline, **change}
    kl, num_tokens = 0.0, 0
    for i, ids in enumerate(judge.sets["text"][:4]):
        logits = judge.workbench.score(plan, 24)(ids[:24])
        score = compare(ids[12:25], judge.stores["text"].logits(i)[12:24], logits[12:24])
        kl, num_tokens = kl + score.kl, num_tokens + score.num_tokens
    assert num_tokens == 48
    assert judge.probe_kl(change) == pytest.approx(kl / num_tokens, rel=1e-3)
    alone = replace(judge, sets={"text": judge.sets["text"][:1]})
    assert alone.probe_kl(change) < judge.probe_kl(change) / 3, "the first sequence alone hardly shows it"


def test_a_probe_takes_sequences_from_everywhere(judge: Judge) -> None:
    """One that is short counts by what it has."""
    change = {"layers.0.qkv": Scheme.parse("int4-g32-asym")}
    many = replace(
        judge,
        sets={"one": [judge.sets["text"][0]] * 4, "two": [judge.sets["text"][1][:9]] * 4},
        stores={"one": AlwaysOf(judge.stores["text"], 0), "two": AlwaysOf(judge.stores["text"], 1)},
    )
    short = judge.sets["text"][1][:9]
    logits = judge.workbench.score({**judge.baseline, **change}, 8)(short[:8])
    score = compare(short[4:9], judge.stores["text"].logits(1)[4:8], logits[4:8])
    first = replace(judge, sets={"one": [judge.sets["text"][0]]}, stores={"one": judge.stores["text"]}).probe_kl(change)
    assert many.probe_kl(change) == pytest.approx((2 * 12 * first + 2 * score.kl) / (2 * 12 + 2 * 4), rel=1e-3)


def test_records_are_of_a_plan_over_a_cache() -> None:
    plan = {"embed": Scheme("int8")}
    assert len({plan_digest(plan), plan_digest(plan, "bf16"), plan_digest(plan, "fp16")}) == 3


def test_keys_beyond_half_the_range_of_fp16_are_refused_on_any_sequence(folder: Path) -> None:
    judge = judge_of(folder, key_bias=40_000.0)
    for score in (lambda: judge.on("fp16").evaluate(judge.baseline), lambda: judge.on("fp16").probe_kl({})):
        with pytest.raises(KvRangeError, match=r"within 32,752; got 4\d,\d\d\d"):
            score()
    judge.on("fp32").evaluate(judge.baseline)
    assert "within 32,752" in KvLoss.measured(judge.on("fp16")).refusal


def test_an_explanation_names_limit_metric_interval_set_and_sequence(judge: Judge) -> None:
    gate = Gate(max_kl=0.05, max_perplexity_increase=1e-9, min_top1_agreement=0.9999)
    kl, increase, agreement, wider, advice = explain(gate, judge.on("bf16"), judge.baseline)
    scores = judge.on("bf16").scores(judge.baseline)["text"]
    worst = max(range(NUM_SEQUENCES), key=lambda i: scores[i].kl)
    assert kl.startswith("text: kl 0.") and "must be at most 0.05 at 0." in kl
    assert f"sequence {worst + 1} of {NUM_SEQUENCES} weighs most, " in kl
    assert increase.startswith("text: perplexity_increase") and agreement.startswith("text: top1_agreement")
    assert wider == "over a KV cache of fp32 instead of bf16 the same plan has KL 0 (0 to 0) and passes"
    assert advice == "offer fp32, or another that loses less than bf16, in search.space: precision.kv_cache"


def test_where_the_cache_is_not_at_fault_the_explanation_measures_the_weights(judge: Judge) -> None:
    plan = judge.baseline | {"layers.0.qkv": Scheme.parse("int4-g32-asym")}
    kl, weights, advice = explain(Gate(max_kl=0.001), judge.on("fp32"), plan)
    assert kl.startswith("text: kl 0.")
    assert weights == "over its KV cache of fp32 unquantized weights have KL 0 (0 to 0) and passes"
    assert advice == "offer finer schemes in search.space: precision.groups, or raise the limit"
