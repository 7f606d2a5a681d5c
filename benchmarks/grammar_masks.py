"""What masks cost: tokens per second of eight streams held to JSON schemas, against the same streams held to nothing.

    python -m benchmarks.grammar_masks BUNDLE --out FILE [--rounds 12] [--temperature 0]

Both are the engine of `serve`, in one process, in turn A B A B. A turn has the same eight prompts, computes them, and then
times decode steps in which all eight streams gain a token; the schemas ask for more items than fit in a turn, so that none
ends. `forms_us` is what a mask takes by itself on its thread, and `compile_ms` what a schema takes, once for each client.
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
NUM_STEPS = 64
_ROOM = 16  # steps before and behind the timed ones
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


def tokens_per_s(engine: EngineCore, requests: Sequence[Request]) -> float:
    """Of the decode steps of all `requests` together."""
    for request in requests:
        engine.add(request)
    seen: set[str] = set()
    while len(seen) < len(requests):
        seen |= {output.request_id for output in engine.step()}
    for _ in range(_ROOM // 2):
        engine.step()
    begin_s = time.perf_counter()
    num_tokens = sum(len(engine.step()) for _ in range(NUM_STEPS))
    took_s = time.perf_counter() - begin_s
    assert num_tokens == NUM_STEPS * len(requests), "a stream has ended"
    for request in requests:
        engine.abort(request.id)
    return num_tokens / took_s


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
    low, middle, high = quantiles(values, n=4)
    return {"median": middle, "quartile_low": low, "quartile_high": high, "min": min(values), "max": max(values)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--temperature", type=float, default=0.0)
    asked = arguments.parse_args()
    loaded = load(asked.bundle)
    engine, given = loaded.engine, prompts(loaded)
    grammars = Grammars(Vocabulary(loaded.tokenizer), engine.vocab_size, eos_token_ids(loaded.generation_config))
    begin_s = time.perf_counter()
    grammars.get_ready()
    ready_s = time.perf_counter() - begin_s
    forms = [of_json_schema(constraining(schema, name)) for name, schema in SCHEMAS.items()]
    compile_ms = []
    for form in forms:
        begin_s = time.perf_counter()
        grammars.compile(form)
        compile_ms.append(1e3 * (time.perf_counter() - begin_s))
    params = SamplingParams(temperature=asked.temperature, seed=1, max_tokens=NUM_STEPS + 2 * _ROOM, ignore_eos=True)

    def requests(are_held: bool) -> list[Request]:
        constraints = [grammars.compile(form) if are_held else None for form in forms] * (NUM_STREAMS // len(forms))
        return [Request(f"{next(_NAMES)}", ids, params, held) for ids, held in zip(given, constraints, strict=True)]

    tokens_per_s(engine, requests(False)), tokens_per_s(engine, requests(True))  # warm up
    free, held = [], []
    for turn in range(asked.rounds):
        for are_held in (False, True) if turn % 2 == 0 else (True, False):
            (held if are_held else free).append(tokens_per_s(engine, requests(are_held)))
        print(f"{turn}: free {free[-1]:.1f}, held {held[-1]:.1f} tokens/s", flush=True)
    said = list(answers(engine, requests(True)).values())
    forms_us = [us for form, ids in zip(forms * 2, said, strict=True) for us in mask_us(grammars, form, ids, engine.vocab_size)]
    loss = 1 - median(held) / median(free)
    result = {
        "command": "python -m benchmarks.grammar_masks BUNDLE --out FILE",
        "rounds": asked.rounds,
        "temperature": asked.temperature,
        "bundle": loaded.manifest.name,
        "machine": {"cpu": host().model, "cores": host().num_cores, "load_average": os.getloadavg()},
        "vocab_size": engine.vocab_size,
        "num_streams": NUM_STREAMS,
        "steps_a_turn": NUM_STEPS,
        "free_tokens_per_s": spread(free) | {"all": free},
        "held_tokens_per_s": spread(held) | {"all": held},
        "loss": loss,
        "loss_of_pairs": spread([1 - b / a for a, b in zip(free, held, strict=True)]),
        "forms_us": spread(forms_us) | {"p99": float(np.percentile(forms_us, 99)), "count": len(forms_us)},
        "compile_ms": compile_ms,
        "vocabulary_ready_s": ready_s,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"loss by masks {100 * loss:.2f} %; masks {median(forms_us):.0f} us; wrote {asked.out}")


if __name__ == "__main__":
    main()
