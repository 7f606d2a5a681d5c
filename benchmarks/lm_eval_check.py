"""Our scores against lm-evaluation-harness, item by item: it asks `serve` over HTTP, we ask the same bundle's engine.

    python benchmarks/lm_eval_check.py BUNDLE gsm8k.jsonl --lm-eval VENV/bin/lm_eval [--items N] [--output FILE]

The harness lives in an environment of its own (`pip install "lm-eval[api]" torch transformers`). Multiple choice is made of
the same file: each question with its own number and three of other questions. Exits with 1 where an item differs.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from kernels.cpu.host import host
from optimizer.evaluation import Subject
from optimizer.evaluation.sets.gsm8k import Gsm8k
from optimizer.evaluation.sets.item_set import Marked
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from runtime.loading import load

TASKS = Path(__file__).with_name("lm_eval_tasks")
NUM_FEWSHOT = 2
MAX_TOKENS = 256
_START_TIMEOUT_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("--lm-eval", type=Path, required=True, help="the harness's command")
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = check(arguments.bundle, arguments.gsm8k, arguments.lm_eval, arguments.items, Path(folder))
    text = json.dumps(report, indent=2) + "\n"
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    return 1 if report["num_different"] else 0


def check(bundle: Path, gsm8k: Path, lm_eval: Path, num_items: int, folder: Path) -> dict[str, Any]:
    """Both scores of every item."""
    problems = Gsm8k.read(gsm8k)
    examples, problems = problems[:NUM_FEWSHOT], problems[NUM_FEWSHOT : NUM_FEWSHOT + num_items]
    choices = _choices(problems)
    _write_tasks(folder, {"examples": examples, "gsm8k": problems, "choices": choices})
    _write_tokenizer(bundle, folder / "tokenizer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([Path(sys.executable).with_name("serve"), bundle, "--port", str(port)])
    try:
        _wait(f"http://127.0.0.1:{port}/health")
        samples = _run_harness(lm_eval, bundle, port, folder)
    finally:
        server.terminate()
        server.wait(30)

    subject = Subject.served(load(bundle))
    ours = {
        "coldforge_choices": subject.results(MultipleChoice("choices", choices), choices),
        "coldforge_gsm8k": subject.results(Gsm8k("gsm8k", problems, examples=examples, max_tokens=MAX_TOKENS), problems),
    }
    items = [*_compare_choices(ours["coldforge_choices"], samples), *_compare_gsm8k(ours["coldforge_gsm8k"], samples)]
    sums = [item for item in items if "largest_difference_nats" in item]
    return {
        "command": f"python benchmarks/lm_eval_check.py {bundle.name} {gsm8k.name} --items {num_items}",
        "cpu": host().model,
        "coldforge": version("coldforge"),
        "num_scores": len(items),
        "num_different": sum(not item["same"] for item in items),
        "largest_difference_of_a_log_likelihood_nats": max(item["largest_difference_nats"] for item in sums),
        "scores": {
            f"{task}/{metric}": sum(marked.scores[metric] for marked in results) / len(results)
            for task, results in ours.items()
            for metric in results[0].scores
        },
        "items": items,
    }


def _choices(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    numbers = [problem["answer"].rpartition("#### ")[2] for problem in problems]
    made = []
    for i, problem in enumerate(problems):
        others = [numbers[(i + step) % len(numbers)] for step in (1, 2, 3)]
        place = i % 4
        made.append({"id": problem["id"], "question": problem["question"], "answer": place})
        made[-1]["choices"] = [*others[:place], numbers[i], *others[place:]]
    return made


def _write_tasks(folder: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    for name, items in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    for path in TASKS.glob("*.yaml"):
        task = yaml.safe_load(path.read_text())
        data_files = task["dataset_kwargs"]["data_files"]
        task["dataset_kwargs"]["data_files"] = {split: str(folder / name) for split, name in data_files.items()}
        (folder / path.name).write_text(yaml.safe_dump(task))


def _write_tokenizer(bundle: Path, folder: Path) -> None:
    """The bundle's tokenizer as transformers wants it, which the harness uses to split contexts from continuations."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((bundle / "tokenizer.json").read_bytes())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _wait(url: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _run_harness(lm_eval: Path, bundle: Path, port: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Task -> the harness's samples, one for each item and filter."""
    model = json.loads((bundle / "manifest.json").read_text())["name"]
    options = {
        "model": model,
        "base_url": f"http://127.0.0.1:{port}/v1/completions",
        "tokenizer": str(folder / "tokenizer"),
        "tokenized_requests": "True",
        "num_concurrent": "1",
        "max_length": "4096",
        "max_gen_toks": str(MAX_TOKENS),
    }
    command = [lm_eval, "run", "--model", "local-completions", "--tasks", "coldforge_choices,coldforge_gsm8k"]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in options.items())]
    command += ["--include_path", folder, "--output_path", folder / "out", "--log_samples", "--batch_size", "1"]
    subprocess.run(command, check=True)
    samples: dict[str, list[dict[str, Any]]] = {}
    for path in (folder / "out").rglob("samples_*.jsonl"):
        task = path.name.removeprefix("samples_").rsplit("_", 1)[0]
        samples[task] = [json.loads(line) for line in path.read_text().splitlines()]
    return samples


def _compare_choices(ours: list[Marked], samples: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    items = []
    for sample in samples["coldforge_choices"]:
        marked = ours[sample["doc_id"]]
        theirs = [float(reply[0][0]) for reply in sample["resps"]]
        differences = [abs(float(mine) - their) for mine, their in zip(marked.answer.split(), theirs, strict=True)]
        scores = {metric: float(sample[metric]) for metric in marked.scores}
        same = scores == dict(marked.scores)
        items.append(
            {"task": "choices", "item": sample["doc_id"], "same": same, "largest_difference_nats": max(differences)} | scores
        )
    return items


def _compare_gsm8k(ours: list[Marked], samples: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    items = []
    for sample in samples["coldforge_gsm8k"]:
        marked = ours[sample["doc_id"]]
        metric = {"strict-match": "strict", "flexible-extract": "flexible"}[sample["filter"]]
        same_text = sample["resps"][0][0] == marked.answer
        same = float(sample["exact_match"]) == marked.scores[metric] and same_text
        items.append(
            {"task": "gsm8k", "item": sample["doc_id"], "metric": metric, "same": same, "score": float(sample["exact_match"])}
        )
    return items


if __name__ == "__main__":
    sys.exit(main())
