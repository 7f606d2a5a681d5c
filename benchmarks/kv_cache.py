"""KL of each KV cache against transformers in fp32, under uniform plans, on text of the user's and text that the model wrote.

    python -m benchmarks.kv_cache --model MODEL --text wikitext2_valid.txt [--schemes fp32 int8] [--kv-caches bf16 fp16 ...]
        [--sequences 16] [--tokens 256] [--out benchmarks/results/NAME.json]

MODEL is a GGUF file or a Hugging Face folder. Through the kernels of this CPU, default constants.
Nats per token with a 95 % interval over sequences, and the worst sequence: a model with large key biases loses little on
average and breaks a few texts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from artifacts.precision import KvDtype, Scheme
from benchmarks.held_out import spaced, whole_text
from benchmarks.untuned import own_text, untuned
from kernels.cpu import kv_cache
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from optimizer.evaluation import BaselineStore, Evaluation, Score
from optimizer.evaluation.evaluation import rounded
from optimizer.importers import Source, open_source
from optimizer.measure.workbench import KvRangeError
from optimizer.records.progress import Reporter
from optimizer.search.accuracy import Judge
from optimizer.search.texts import Tokens
from runtime.models import checkpoint_tensors


def transformers_model(model: Path, source: Source) -> PreTrainedModel:
    """The model in transformers, fp32: its own reading of the config, and the source's values."""
    given = {"gguf_file": model.name} if model.is_file() else {}
    config = AutoConfig.from_pretrained(model.parent if model.is_file() else model, **given)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    joined = checkpoint_tensors(source.architecture).values()
    tensors = {part.name: source.checkpoint.read(part.name).to(torch.float32) for parts in joined for part in parts}
    missing, unexpected = loaded.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    loaded.tie_weights()
    return loaded


def transformers_score(loaded: PreTrainedModel) -> Score:
    """token ids -> logits."""

    def score(token_ids: list[int]) -> Any:
        with torch.inference_mode():
            return loaded(torch.tensor([token_ids])).logits[0].numpy()

    return score


def measured(judge: Judge, scheme: Scheme, kv_dtype: KvDtype) -> dict[str, Any]:
    """Set name -> KL with its interval, and of the worst sequence; or why there is none."""
    try:
        scores = judge.on(kv_dtype).scores(dict.fromkeys(judge.baseline, scheme))
    except KvRangeError as error:
        return {name: {"refused": str(error)} for name in judge.sets}
    found = {}
    for name, of_set in scores.items():
        each = [score.kl / score.num_tokens for score in of_set]
        kl = {part: rounded(value) for part, value in asdict(Evaluation.of(of_set, seed=0).kl).items()}
        found[name] = kl | {"worst": rounded(max(each)), "worst_sequence": each.index(max(each)) + 1}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--schemes", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--kv-caches", nargs="+", default=list(kv_cache.STORAGE))
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    source, reporter = open_source(options.model), Reporter()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        bench, exact = untuned(source, work)
        sets: dict[str, list[Tokens]] = {
            options.text.stem: spaced(whole_text(options.text, source.tokenizer_json, options.tokens), options.sequences),
            "sampled": own_text(source, bench, exact, options.sequences, options.tokens, options.sequences, reporter),
        }
        score = transformers_score(transformers_model(options.model, source))
        stores = {
            name: BaselineStore.load_or_score(work / "baseline", "transformers", ids, score) for name, ids in sets.items()
        }
        judge = Judge(bench, exact, sets, stores, seed=0)
        results: dict[str, dict[str, Any]] = {name: {} for name in options.schemes}
        for name in options.schemes:
            for kv_dtype in options.kv_caches:
                results[name][kv_dtype] = measured(judge, Scheme.parse(name), kv_dtype)
                print(f"{name}, KV cache {kv_dtype}: {results[name][kv_dtype]}", flush=True)
                if options.out:
                    record = {
                        "command": f"python -m benchmarks.kv_cache --model {options.model.name} --text {options.text.name} "
                        f"--schemes {' '.join(options.schemes)} --kv-caches {' '.join(options.kv_caches)} "
                        f"--sequences {options.sequences} --tokens {options.tokens}",
                        "cpu": f"{host().model}, {best_isa(host()).name}",
                        "kl": results,
                    }
                    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
