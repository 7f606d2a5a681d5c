"""Does the unquantized model write llama.cpp's greedy tokens, from one GGUF file?

    python -m benchmarks.gguf_greedy MODEL.gguf TEXT --llama-cpp PYTHON --work FOLDER [--prompts 50] [--tokens 32]
        [--out RESULT.json]

llama.cpp, by the Python of an environment that has llama-cpp-python, reads a copy of MODEL that the gguf package dequantized
to F32, with keys and values in fp32. Ours is MODEL as it is imported, in fp32, on the kernels of this CPU. Prompts are parts of
TEXT, four of five of 8 to 64 tokens, the others of 600: beyond the window of models that have one. Ours is given each prompt
and what llama.cpp wrote; its best token after every position is what it would have written there (decision 0002).

Where the two differ first, they have read the same tokens. It is a tie if llama.cpp's two log-probabilities lie within twice
the largest difference between theirs and ours, over llama.cpp's 8 best tokens, at all the steps where the two agree. Both
tokenizers read texts, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.interchange.readers import log_softmax
from benchmarks.untuned import untuned
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from optimizer.importers import open_source
from runtime.scoring import score

SHORTEST, LONGEST, LONG = 8, 64, 600


def write_f32(path: Path, copy: Path) -> None:
    """`path` with every tensor as F32, by the gguf package alone."""
    reader = GGUFReader(path)
    writer = GGUFWriter(copy, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind, item = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=item)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(int(size) for size in reversed(tensor.shape)))
        writer.add_tensor(tensor.name, values.astype(np.float32), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True)
class Difference:
    """The first of a prompt: llama.cpp's token and ours, and how far llama.cpp's log-probabilities of the two lie apart."""

    prompt: int
    step: int
    theirs: int
    ours: int
    gap: float


def prompts_of(text: str, tokenizer: Tokenizer, num: int) -> list[list[int]]:
    """As the model's tokenizer begins them, from places all over `text`."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    start = tokenizer.encode("", add_special_tokens=True).ids
    lengths = [LONG if i % 5 == 4 else SHORTEST + i % (LONGEST - SHORTEST + 1) for i in range(num)]
    places = [i * (len(ids) - LONG) // num for i in range(num)]
    return [[*start, *ids[place : place + length]] for place, length in zip(places, lengths, strict=True)]


def compared(
    logits: NDArray[np.float32], tokens: list[int], best: list[list[tuple[int, float]]], prompt: int
) -> tuple[Difference | None, float]:
    """The first difference, and the largest between log-probabilities at the steps before it.

    `logits` [tokens, vocab_size] are ours, `best` llama.cpp's best tokens with their log-probabilities, for each of `tokens`.
    """
    largest = 0.0
    for step, (row, token, candidates) in enumerate(zip(logits, tokens, best, strict=True)):
        ours = int(row.argmax())
        theirs = dict(candidates)
        if ours != token:
            return Difference(prompt, step, token, ours, theirs[token] - theirs.get(ours, -np.inf)), largest
        ours_of = log_softmax(row)
        largest = max(largest, *(abs(float(ours_of[candidate]) - logprob) for candidate, logprob in candidates))
    return None, largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--llama-cpp", required=True, help="the Python of an environment that has llama-cpp-python")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    copy, asked, answer = (args.work / name for name in ("f32.gguf", "asked.json", "answer.json"))
    if not copy.exists():
        write_f32(args.model, copy)

    source = open_source(args.model)
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    text = args.text.read_text(encoding="utf-8")
    prompts = prompts_of(text, tokenizer, args.prompts)
    pieces = [text[place : place + 400] for place in range(0, len(text) - 400, len(text) // args.prompts)]
    asked.write_text(json.dumps({"prompts": prompts, "num_tokens": args.tokens, "strings": pieces}))
    reader = Path(__file__).with_name("llama_cpp_greedy.py")
    subprocess.run([args.llama_cpp, "-P", reader, copy, asked, answer], check=True, stdout=sys.stderr)
    theirs = json.loads(answer.read_text())

    bench, exact = untuned(source, args.work)
    room = LONG + args.tokens + bench.kv_block_size
    runner = bench.runner(exact, 64, room)
    differences, largest, steps = [], 0.0, 0
    for i, (prompt, tokens, best) in enumerate(zip(prompts, theirs["tokens"], theirs["best"], strict=True)):
        logits = score(runner, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        difference, error = compared(logits, tokens, best, i)
        largest = max(largest, error)
        steps += args.tokens if difference is None else difference.step
        if difference is not None:
            differences.append(difference)
    tokenized = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in pieces]
    command = "python -m benchmarks.gguf_greedy MODEL.gguf TEXT --llama-cpp PYTHON --work FOLDER"
    record = {
        "command": f"{command} --prompts {args.prompts} --tokens {args.tokens}",
        "sources": source.sha256(),
        "text": args.text.name,
        "llama_cpp": theirs["version"],
        "machine": {"cpu": host().model, "isa": best_isa(host()).name, "cores": host().num_cores},
        "prompts": len(prompts),
        "prompts_with_the_same_tokens": len(prompts) - len(differences),
        "steps_that_agree": steps,
        "largest_difference_of_log_probabilities": largest,
        "differences": [{**vars(d), "is_tie": d.gap <= 2 * largest} for d in differences],
        "all_differences_are_ties": all(d.gap <= 2 * largest for d in differences),
        "texts_tokenized_alike": f"{sum(a == b for a, b in zip(tokenized, theirs['strings'], strict=True))} of {len(pieces)}",
    }
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
