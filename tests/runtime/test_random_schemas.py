"""Whatever schema an answer is held to: if it ends by itself, it validates, as the jsonschema library judges; and most end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig

from artifacts.manifest import Limits
from kernels.cpu.library import Library
from optimizer.importers import open_source
from optimizer.weights.quantized_store import QuantizedStore
from runtime.engine_core import EngineCore
from runtime.generation_config import eos_token_ids
from runtime.grammar import of_json_schema
from runtime.grammars import Grammars
from runtime.json_schema import UnsupportedSchema, constraining
from runtime.loading import load
from runtime.prompts import Prompts
from runtime.request import Request, RequestError, SamplingParams
from runtime.text_stream import Vocabulary
from tests.importers.random_models import random_model as make_random
from tests.importers.random_models import save_folder
from tests.json_schemas import schemas
from tests.runtime.conftest import SIZES, Tiny, moderate
from tests.server.smollm2_bundle import write_smollm2_bundle

MAX_TOKENS = 512
MIN_SHARE_ENDED = 0.95
AT_ONCE = 8
JUDGE = jsonschema.Draft202012Validator


@dataclass
class Tally:
    num_ended: int = 0
    num_cut: int = 0
    refused: list[tuple[Any, str]] = field(default_factory=list)
    failed: list[tuple[Any, str]] = field(default_factory=list)

    @property
    def share_ended(self) -> float:
        return self.num_ended / (self.num_ended + self.num_cut)


@dataclass(frozen=True)
class Model:
    """An engine, and what holds it to schemas and asks it for an answer."""

    engine: EngineCore
    grammars: Grammars
    tokenizer: Tokenizer
    prompt: Callable[[Any], list[int]]
    params: SamplingParams

    def answers(self, wanted: Sequence[Any], tally: Tally) -> list[tuple[Any, str]]:
        """Schemas and the answers to them that ended by themselves."""
        asked: dict[str, Any] = {}
        for index, schema in enumerate(wanted):
            try:
                constraint = self.grammars.compile(of_json_schema(constraining(schema, "schema"), "schema"))
            except (RequestError, UnsupportedSchema) as error:
                tally.refused.append((schema, str(error)))
                continue
            asked[str(index)] = schema
            self.engine.add(Request(str(index), self.prompt(schema), self.params, constraint))
        said: dict[str, list[int]] = {name: [] for name in asked}
        ended = []
        while self.engine.has_work():
            for output in self.engine.step():
                if output.error is not None:
                    tally.failed.append((asked[output.request_id], str(output.error)))
                if output.finish_reason == "stop":
                    ended.append(output.request_id)
                elif output.token_id is not None:
                    said[output.request_id].append(output.token_id)
        tally.num_ended += len(ended)
        tally.num_cut += len(asked) - len(ended)
        return [(asked[name], self.tokenizer.decode(said[name], skip_special_tokens=False)) for name in ended]


def check(model: Model, num_schemas: int, bounded: bool) -> Tally:
    """Holds `model` to so many schemas; every answer that ends validates."""
    tally = Tally()

    @settings(
        max_examples=num_schemas // AT_ONCE,
        derandomize=True,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.lists(schemas(bounded), min_size=AT_ONCE, max_size=AT_ONCE))
    def all_validate(wanted: list[Any]) -> None:
        for schema, text in model.answers(wanted, tally):
            JUDGE.check_schema(schema)
            JUDGE(schema, format_checker=JUDGE.FORMAT_CHECKER).validate(json.loads(text))

    all_validate()
    assert not tally.failed, tally.failed
    print(f"{tally.num_ended} ended, {tally.num_cut} were cut at {MAX_TOKENS}, {len(tally.refused)} refused")
    for reason in sorted({reason for _, reason in tally.refused}):
        print("   ", reason)
    return tally


def byte_tokenizer() -> Tokenizer:
    """All bytes, pieces of JSON that join several of its parts, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = ['":', '",', '"}', '{"', '["', '":"', "},", "]}", "tr", "ue", "fa", "lse", "nul", ', "', ': "']
    pieces = [*alphabet, *(piece.replace(" ", "\u0120") for piece in joined)]
    tokenizer = Tokenizer(models.WordLevel({piece: id for id, piece in enumerate(pieces)}, unk_token="!"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


@pytest.fixture(scope="module")
def random_model(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random llama over a vocabulary of bytes."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(**SIZES | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 560})
    folders = [tmp_path_factory.mktemp(name) for name in ("model", "store")]
    model = moderate(make_random(config))
    source = open_source(save_folder(model, folders[0]))
    limits = Limits(
        kv_block_size=16, num_kv_blocks=320, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=560, num_threads=1
    )
    runner = Tiny(model, source, QuantizedStore(source, folders[1])).runner(library, "fp32", limits)
    ends = [tokenizer.token_to_id("</s>")]
    grammars = Grammars(Vocabulary(tokenizer), runner.vocab_size, ends)
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=MAX_TOKENS)
    return Model(EngineCore(runner, ends), grammars, tokenizer, lambda schema: [1, 2, 3], params)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path, kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    loaded = load(write_smollm2_bundle(smollm2_gguf, kernels_path, tmp_path_factory.mktemp("smollm2")))
    ends = eos_token_ids(loaded.generation_config)
    encode = Prompts(loaded.tokenizer, loaded.chat_template).encode_chat

    def prompt(schema: Mapping[str, Any]) -> list[int]:
        wanted = f"Invent an example. Answer with JSON only, which follows this schema: {json.dumps(schema)}"
        return encode([{"role": "user", "content": wanted}])

    grammars = Grammars(Vocabulary(loaded.tokenizer), loaded.engine.vocab_size, ends)
    return Model(loaded.engine, grammars, loaded.tokenizer, prompt, SamplingParams(seed=3, max_tokens=MAX_TOKENS))


def test_a_random_model_held_to_random_schemas(random_model: Model) -> None:
    tally = check(random_model, 64, bounded=True)
    assert tally.share_ended >= MIN_SHARE_ENDED


@pytest.mark.slow
def test_a_random_model_held_to_a_thousand_schemas(random_model: Model) -> None:
    tally = check(random_model, 1000, bounded=True)
    assert tally.share_ended >= MIN_SHARE_ENDED and len(tally.refused) < 50


@pytest.mark.slow
def test_a_real_model_held_to_schemas(smollm2: Model) -> None:
    """Fewer than the random model is held to, because a thousand take half an hour on two cores."""
    tally = check(smollm2, 48, bounded=True)
    assert tally.share_ended >= MIN_SHARE_ENDED and len(tally.refused) < 3
