"""A hundred tool questions: to a model, to the bundle that `optimize` chooses of it, and to that bundle where it must call.

    python -m benchmarks.tool_calls qwen2.5-coder-0.5b.gguf FOLDER

Writes the questions and a model.yaml into FOLDER and makes the bundle there under the gate: KL, and the questions as a set of
format tools, paired, against the unquantized model. Then it asks the bundle again with tool_choice: required, and counts the
calls that are valid: of a function that was offered, with arguments that its schema allows. Nothing is made twice.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jsonschema

from benchmarks.tool_questions import questions, write_questions
from optimizer.evaluation.sets.tools import are_right
from runtime import Engine
from runtime.answer.whole import Answer

NUM_QUESTIONS = 100
#: below the unquantized model's share; a hundred items show no less than about 4 %
MARGIN = "10%"


def model_yaml(source: Path) -> dict[str, Any]:
    """JSON is YAML."""
    return {
        "source": str(source.resolve()),
        "evaluation": {
            "num_sequences": 16,
            "tokens_per_sequence": 96,
            "sets": [{"path": "questions.jsonl", "format": "tools", "margin": MARGIN}],
        },
        "gate": {"max_kl": 0.08},
        "workload": {"prompt_tokens": 128, "output_tokens": 128, "concurrency": 1},
        "search": {"trials": 8, "timeout": "8m"},
        "output": "bundle",
    }


def fault_of(answer: Answer, tools: list[dict[str, Any]]) -> str:
    """What is invalid about an answer that had to call; empty if nothing is."""
    if not answer.calls:
        return f"called nothing, said {answer.text!r:.80}"
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    for call in answer.calls:
        try:
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])
        except (KeyError, ValueError, jsonschema.ValidationError) as error:
            return f"{call.name}({call.arguments}): {str(error).splitlines()[0]}"
    return ""


async def required(engine: Engine, items: Sequence[dict[str, Any]]) -> list[Answer]:
    """The answer to each question where one of its tools must be called, all side by side."""

    async def answer(item: dict[str, Any]) -> Answer:
        chat = [{"role": "user", "content": item["question"]}]
        options: dict[str, Any] = {"tools": item["tools"], "tool_choice": "required", "temperature": 0, "max_tokens": 512}
        return Answer.of([event async for delta in engine.stream_chat(chat, **options) for event in delta.events])

    return await asyncio.gather(*map(answer, items))


def report_required(bundle: Path, items: Sequence[dict[str, Any]]) -> None:
    """How many of a bundle's calls are valid where it must call, and how many right."""
    with Engine(bundle) as engine:
        answers = asyncio.run(required(engine, items))
    faults = [fault_of(answer, item["tools"]) for answer, item in zip(answers, items, strict=True)]
    right = sum(
        are_right([(call.name, call.arguments) for call in answer.calls], item["expected"])["call"]
        for answer, item in zip(answers, items, strict=True)
    )
    click.echo(f"required: {faults.count('')} of {len(items)} answers are valid calls, {right:.0f} are the right one")
    for number, fault in enumerate(faults):
        if fault:
            click.echo(f"question {number}: {fault}")


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of the questions.")
def main(source: Path, folder: Path, seed: int) -> None:
    """Make the bundle of SOURCE in FOLDER under the gate, and print both models' shares of right calls."""
    folder.mkdir(parents=True, exist_ok=True)
    write_questions(folder / "questions.jsonl", NUM_QUESTIONS, seed)
    (folder / "model.yaml").write_text(json.dumps(model_yaml(source), indent=2) + "\n")
    subprocess.run([Path(sys.executable).with_name("optimize"), folder / "model.yaml"], check=True)
    record = json.loads((folder / "bundle" / "evaluation.json").read_text())["item_sets"]["questions"]
    click.echo(f"gate: {record['outcome']}: {record['verdict']}")
    for metric, score in record["scores"].items():
        click.echo(
            f"{metric}: unquantized {score['baseline']:.0%}, bundle {score['candidate']:.0%}, {score['num_worse']} worse, "
            f"{score['num_better']} better"
        )
    report_required(folder / "bundle", questions(NUM_QUESTIONS, seed))


if __name__ == "__main__":
    main()
