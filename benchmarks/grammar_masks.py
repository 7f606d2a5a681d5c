"""What masks cost: tokens per second of eight streams held to JSON schemas, against the same streams held to nothing.

    python -m benchmarks.grammar_masks BUNDLE --out FILE [--rounds 30] [--temperature 0]

Both are engines of `serve`, in one process, over one bundle, and take turns of a few decode steps, A B B A, in each of which
all eight streams gain a token: what else the machine does falls on both. The streams have the same eight prompts; the schemas
ask for more items than there are tokens, so that none ends. On a machine that others use the processor time of the process says
more than the clock: where a step has all cores to itself, no more than that share of its speed can be lost. `masks_us` is what
a mask takes alone, `compile_ms` what a schema takes, once.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from kernels.cpu.host import host
from runtime.engine_core import EngineCore
from runtime.generation_config import eos_token_ids
from runtime.grammar import Grammar, of_json_schema
from runtime.grammars import Grammars
from runtime.json_schema import constraining
from runtime.loading import Loaded, load
from runtime.prompts import Prompts
from runtime.request import Request, SamplingParams
from runtime.text_stream import Vocabulary

NUM_STREAMS = 8
NUM_STEPS = 8  # of a turn
_NUM_SHOWN = 96  # tokens of each stream whose masks are timed alone
_NAMES = count()


def _many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 100}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 1000}
CODE = {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}
POSITION = {"type": "array", "items": {"type": "number"}, "maxItems": 2}
SCHEMAS = {
    "people": _many(_object(name=TEXT, age=COUNT, email=TEXT)),
    "orders": _many(_object(id=CODE, status={"enum": ["new", "paid", "sent"]}, total={"type": "number"})),
    "calls": _many(_object(function={"enum": ["search", "open", "close"]}, arguments=_object(query=TEXT, limit=COUNT))),
    "places": _many(_object(city=TEXT, country=TEXT, position=POSITION)),
}


def prompts(loaded: Loaded) -> list[list[int]]:
    """Eight chats, of which two ask for each schema."""
    encode = Prompts(loaded.tokenizer, loaded.chat_template).encode_chat
    kinds = [*SCHEMAS] * (NUM_STREAMS // len(SCHEMAS))
    return [
        encode([{"role": "user", "content": f"Write a JSON array of 100 invented {kind}, number {place}, as JSON only."}])
        for place, kind in enumerate(kinds)
    ]


def begin(engine: EngineCore, requests: Sequence[Request]) -> None:
    """Until all of `requests` are decoding."""
    for request in requests:
        engine.add(request)
    seen: set[str] = set()
    while len(seen) < len(requests):
        seen |= {output.request_id for output in engine.step()}


def turn(engine: EngineCore) -> tuple[float, float]:
    """Tokens per second, and milliseconds of processor time of this process for each."""
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    num_tokens = sum(len(engine.step()) for _ in range(NUM_STEPS))
    took_s, took_cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    assert num_tokens == NUM_STEPS * NUM_STREAMS, "a stream has ended"
    return num_tokens / took_s, 1e3 * took_cpu_s / num_tokens


def mask_us(grammars: Grammars, grammar: Grammar, token_ids: Sequence[int], vocab_size: int) -> list[float]:
    """What the mask before each of `token_ids` takes, alone."""
    matcher = grammars.compile(grammar)._matcher.deep_copy()
    bits = np.zeros(-(-vocab_size // 32), np.int32)
    times_us = []
    for token in token_ids:
        begin_s = time.perf_counter()
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        times_us.append(1e6 * (time.perf_counter() - begin_s))
        assert matcher.consume_token(token), "the answer does not follow its grammar"
    return times_us


def answers(engine: EngineCore, requests: Sequence[Request]) -> dict[str, list[int]]:
    """The first tokens of each request, in the order of `requests`."""
    said: dict[str, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work():
        for output in engine.step():
            if output.token_id is not None:
                said[output.request_id].append(output.token_id)
    return said


def spread(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "quartile_low": low, "quartile_high": high, "min": min(values), "max": max(values)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=30)
    arguments.add_argument("--temperature", type=float, default=0.0)
    asked = arguments.parse_args()
    loaded, other = load(asked.bundle), load(asked.bundle)
    given = prompts(loaded)
    vocab_size = loaded.engine.vocab_size
    grammars = Grammars(Vocabulary(loaded.tokenizer), vocab_size, eos_token_ids(loaded.generation_config))
    begin_s = time.perf_counter()
    grammars.get_ready()
    ready_s = time.perf_counter() - begin_s
    forms = [of_json_schema(constraining(schema, name)) for name, schema in SCHEMAS.items()]
    compile_ms = []
    for form in forms:
        begin_s = time.perf_counter()
        grammars.compile(form)
        compile_ms.append(1e3 * (time.perf_counter() - begin_s))

    def requests(are_held: bool, num_tokens: int) -> list[Request]:
        params = SamplingParams(temperature=asked.temperature, seed=1, max_tokens=num_tokens, ignore_eos=True)
        constraints = [grammars.compile(form) if are_held else None for form in forms] * (NUM_STREAMS // len(forms))
        return [Request(f"{next(_NAMES)}", ids, params, held) for ids, held in zip(given, constraints, strict=True)]

    said = list(answers(loaded.engine, requests(True, _NUM_SHOWN)).values())
    masks_us = [us for form, ids in zip(forms * 2, said, strict=True) for us in mask_us(grammars, form, ids, vocab_size)]
    engines = {"free": loaded.engine, "held": other.engine}
    for name, engine in engines.items():
        begin(engine, requests(name == "held", (asked.rounds + 1) * NUM_STEPS + NUM_STREAMS))
        turn(engine)
    turns: dict[str, list[tuple[float, float]]] = {"free": [], "held": []}
    for number in range(asked.rounds):
        for name in ("free", "held") if number % 2 == 0 else ("held", "free"):
            turns[name].append(turn(engines[name]))
    (free, free_ms), (held, held_ms) = (map(list, zip(*turns[name], strict=True)) for name in ("free", "held"))
    more_cpu = median(held_ms) / median(free_ms) - 1
    loss = 1 - median(held) / median(free)
    result = {
        "command": "python -m benchmarks.grammar_masks BUNDLE --out FILE",
        "rounds": len(free),
        "temperature": asked.temperature,
        "bundle": loaded.manifest.name,
        "machine": {"cpu": host().model, "cores": host().num_cores, "load_average": os.getloadavg()},
        "vocab_size": vocab_size,
        "num_streams": NUM_STREAMS,
        "steps_a_turn": NUM_STEPS,
        "free_tokens_per_s": spread(free) | {"all": free},
        "held_tokens_per_s": spread(held) | {"all": held},
        "loss": loss,
        "more_processor_time": more_cpu,
        "more_processor_time_of_pairs": spread([b / a - 1 for a, b in zip(free_ms, held_ms, strict=True)]),
        "free_processor_ms_per_token": spread(free_ms),
        "held_processor_ms_per_token": spread(held_ms),
        "loss_of_pairs": spread([1 - b / a for a, b in zip(free, held, strict=True)]),
        "masks_us": spread(masks_us) | {"p99": float(np.percentile(masks_us, 99)), "count": len(masks_us)},
        "compile_ms": compile_ms,
        "vocabulary_ready_s": ready_s,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{100 * more_cpu:.2f} % more processor time, {100 * loss:.2f} % fewer tokens a second; wrote {asked.out}")


if __name__ == "__main__":
    main()
