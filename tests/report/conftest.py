"""A headless browser, and reports of invented but plausible runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optimizer.evaluation import Estimate, Evaluation, Gate, SequenceScore
from optimizer.report import Headline, KernelWinner, ReportData, SetAccuracy, StepLatency, TrialPoint
from tests.chromium import chromium

Browser = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Runs headless Chromium on a file: `browser(path, *flags)`. Absent it skips, unless CI=true."""
    binary = chromium()
    profile = tmp_path_factory.mktemp("chromium")

    def run(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [binary, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        command += [f"--user-data-dir={profile}", "--no-first-run", *flags, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    return run


@pytest.fixture(scope="session")
def report() -> Callable[..., ReportData]:
    return synthetic_report


SCHEMES = ("bf16", "int8", "int8-a8", "int4-g64-asym", "int4-g64-asym-a8", "int4-g32-sym")


def evaluation(rng: np.random.Generator, kl: float, num_sequences: int = 48) -> Evaluation:
    scores = []
    for _ in range(num_sequences):
        num_tokens = int(rng.integers(80, 256))
        baseline = num_tokens * rng.normal(2.8, 0.3)
        scores.append(
            SequenceScore(
                num_tokens=num_tokens,
                kl=num_tokens * kl * rng.lognormal(0, 0.4),
                num_top1_agreements=int(num_tokens * rng.normal(0.935, 0.015)),
                negative_log_likelihood=baseline + num_tokens * rng.normal(kl / 8, kl / 8),
                baseline_negative_log_likelihood=baseline,
            )
        )
    return Evaluation.of(scores, seed=0)


def synthetic_report(num_layers: int = 30, *, num_trials: int = 120, max_kl: float = 0.05) -> ReportData:
    rng = np.random.default_rng(0)
    groups = ["embed"] + [f"layers.{i}.{kind}" for i in range(num_layers) for kind in ("qkv", "o", "gate_up", "down")]
    plan = {group: SCHEMES[int(rng.choice(6, p=[0.02, 0.1, 0.25, 0.13, 0.4, 0.1]))] for group in groups}
    plan["embed"] = "int8"
    sensitivities = {}
    for group in groups:
        size = 3e-3 * rng.lognormal(0, 0.9) * (4 if group.endswith("down") else 1) * (6 if ".0." in group else 1)
        sensitivities[group] = {"int4-g128-sym": size, "int8-a8": size * 0.08 * rng.lognormal(0, 0.3)}
    latency = rng.uniform(6.2, 14.5, num_trials)
    kl = 0.35 * np.exp(-(latency - 6) / 1.7) * rng.lognormal(0.5, 0.5, num_trials) + 1e-4
    front = [i for i in range(num_trials) if not any((latency <= latency[i]) & (kl <= kl[i]) & (np.arange(num_trials) != i))]
    trials = [
        TrialPoint(
            number=i,
            summary=f"qkv {rng.choice(SCHEMES)}, o {rng.choice(SCHEMES)}, gate_up {rng.choice(SCHEMES)}, "
            f"down[0-2] int8, down[3-29] {rng.choice(SCHEMES)}, embed int8",
            latency_ms=float(latency[i]),
            kl=float(kl[i]),
            feasible=bool(kl[i] * 1.15 < max_kl),
            on_front=i in front,
        )
        for i in range(num_trials)
    ]
    chosen = min((trials[i] for i in front if trials[i].feasible), key=lambda trial: trial.latency_ms, default=trials[0])
    gate = Gate(max_kl=max_kl, max_perplexity_increase=0.02, min_top1_agreement=0.9)
    own, text = evaluation(rng, 0.031), evaluation(rng, 0.034, 32)
    return ReportData(
        name="smollm2-cpu",
        target="cpu (x86_64, avx512_vnni), 2 threads",
        model="SmolLM2-135M-Instruct, llama, 30 layers",
        headline=Headline(Estimate(1.873, 1.842, 1.905), 14.21, 7.59, 96_400_000, 538_060_000),
        accuracy=[
            SetAccuracy("text sampled from the baseline", own, gate.judge(own), "every limit is met"),
            SetAccuracy("wikitext2_valid.txt", text, gate.judge(text), "every limit is met"),
        ],
        plan=plan,
        trials=trials,
        chosen_trial=chosen.number,
        sensitivities=sensitivities,
        kernels=[
            KernelWinner("quant_matmul", {"TILE_N": 32, "TILE_M": 6}, 14, 41.3, 0.084),
            KernelWinner("paged_attention", {"KV_BLOCK_SIZE": 32, "Q_TILE": 4}, 9, 18.72, 0.012),
            KernelWinner("rms_norm", {"UNROLL": 4}, 1, 1.94),
        ],
        step_latencies=[
            StepLatency(tokens, context, 7.1 + 0.62 * tokens + tokens * context * 0.0009)
            for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 256)
            for context in (128, 512, 2048, 8192)
        ],
        serving={
            "max_num_seqs": 32,
            "max_num_batched_tokens": 256,
            "kv_block_size": 32,
            "num_kv_blocks": 2048,
            "max_model_len": 8192,
            "kv_cache": "bf16",
        },
        provenance={
            "source SmolLM2-135M-Instruct.Q4_1.gguf": "3f0b1c" + "9a" * 29,
            "coldforge": "0.1.0",
            "torch": "2.13.0",
            "compiler": "gcc 12.2.0 -O3 -march=native -ffp-contract=off",
            "seed": 0,
            "study": "smollm2-cpu-5f31c2",
        },
    )
