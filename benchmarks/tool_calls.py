"""A hundred tool questions: to a model, to the bundle that `optimize` chooses of it, and to that bundle where it must call.

    python -m benchmarks.tool_calls qwen2.5-coder-0.5b.gguf FOLDER

Writes the questions and a model.yaml into FOLDER and makes the bundle there under the gate: KL, and the questions as a set of
format tools, paired, against the unquantized model. Then it asks the bundle again with tool_choice: required, and counts the
calls that are valid: of a function that was offered, with arguments that its schema allows. Nothing is made twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema

from benchmarks.tool_questions import questions, write_questions
from optimizer.evaluation.sets.tools import Tools
from runtime import Engine
from runtime.loading import load
from runtime.prompts import Prompts

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


def fault_of(answer: Any, tools: list[dict[str, Any]]) -> str:
    """What is invalid about an answer that had to call; empty if nothing is."""
    if answer.finish_reason != "tool_calls" or not answer.tool_calls:
        return f"ended by {answer.finish_reason} with {len(answer.tool_calls)} calls"
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    for call in answer.tool_calls:
        try:
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])
        except (KeyError, ValueError, jsonschema.ValidationError) as error:
            return f"{call.name}({call.arguments}): {str(error).splitlines()[0]}"
    return ""


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
    items = questions(NUM_QUESTIONS, seed)
    loaded = load(folder / "bundle")
    marks = Tools("questions", items)
    prompts = Prompts(loaded.tokenizer, loaded.chat_template)
    faults, right = [], 0.0
    with Engine(folder / "bundle") as engine:
        for number, item in enumerate(items):
            chat = [{"role": "user", "content": item["question"]}]
            (answer,) = engine.chat(chat, tools=item["tools"], tool_choice="required", temperature=0, max_tokens=512)
            if fault := fault_of(answer, item["tools"]):
                faults.append(f"question {number}: {fault}")
            calls = json.dumps([{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls])
            right += marks.mark({"id": str(number), **item}, [calls], prompts).scores["call"]
    click.echo(f"required: {NUM_QUESTIONS - len(faults)} of {NUM_QUESTIONS} are valid, {right:.0f} are right")
    for fault in faults:
        click.echo(fault)


if __name__ == "__main__":
    main()
