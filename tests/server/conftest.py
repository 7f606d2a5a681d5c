"""A real server on 127.0.0.1 over the real engine; only the model is tiny: it recites a text, by position."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openai
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from artifacts.manifest import Limits
from runtime.batch import Batch
from runtime.chat import ChatTemplate
from runtime.engine_core import EngineCore
from runtime.server import Server, create_app
from tests.server.speaking import SpeakingRunner
from tests.waiting import wait_for

RECITAL = "The quick 你好 brown 😀 fox jumps over the lazy dog. "
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LIMITS = Limits(kv_block_size=16, num_kv_blocks=64, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=512, num_threads=1)


def limits(**changes: int) -> dict[str, Any]:
    """Options of a runner with other limits."""
    return {"limits": LIMITS.model_copy(update=changes)}


def make_tokenizer() -> Tokenizer:
    """Bytes, a few merges, special tokens, and a beginning of sequence that the tokenizer adds."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("q", "u"), ("qu", "i"), ("Ġ", "qui"), ("T", "h"), ("Th", "e")]
    pieces = alphabet + [a + b for a, b in merges]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>"])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", bos)])
    return tokenizer


@dataclass
class RecitingRunner:
    """After n tokens of context the next is recital[n % len], sampled or not; end of sequence where that token's number is up.

    Only a temperature well above 1 samples others: a test that counts tokens without naming one would fail once in hundreds.

    It keeps tokens where a model keeps keys and values, and hashes what it reads back through the block tables into the
    other logits: a block handed out twice shows.
    """

    vocab_size: int
    recital: list[int]
    limits: Limits = LIMITS
    step_time_s: float = 0.0
    failure: Exception | None = None
    eos_at: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cache = np.zeros(self.limits.num_kv_blocks * self.limits.kv_block_size, np.int64)

    def run(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        time.sleep(self.step_time_s)
        if self.failure is not None:
            raise self.failure
        self._cache[batch.slot_mapping] = batch.token_ids
        logits = np.empty((batch.logit_rows.size, self.vocab_size), np.float32)
        for row, token_row in enumerate(batch.logit_rows):
            sequence = int(np.searchsorted(batch.cu_seqlens_q, token_row, side="right")) - 1
            num_tokens = int(batch.positions[token_row]) + 1
            size = self.limits.kv_block_size
            blocks = batch.block_tables[sequence, : -(-num_tokens // size)]
            slots = (blocks[:, None] * size + np.arange(size)).ravel()[:num_tokens]
            seed = hash(tuple(self._cache[slots].tolist())) & (2**63 - 1)
            logits[row] = np.random.default_rng(seed).standard_normal(self.vocab_size)
            logits[row, self.eos_at.get(num_tokens, self.recital[num_tokens % len(self.recital)])] = 30.0
        return logits


@dataclass
class Served:
    """A running server and what it runs."""

    url: str
    runner: RecitingRunner
    engine: EngineCore
    tokenizer: Tokenizer
    server: Server

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 20} | options)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=20)

    def recited(self, num_prompt_tokens: int, num_tokens: int) -> str:
        """What a greedy request of `num_tokens` answers."""
        recital = self.runner.recital
        ids = [recital[(num_prompt_tokens + i) % len(recital)] for i in range(num_tokens)]
        return str(self.tokenizer.decode(ids))

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text).ids)


@contextmanager
def running(
    *,
    runner_options: dict[str, Any] | None = None,
    speak: Callable[[str], str] | None = None,
    max_num_waiting: int = 64,
    template: str | None = TEMPLATE,
    special_tokens: Sequence[str] = (),
    before_load: Callable[[], object] = lambda: None,
    wait_until_loaded: bool = True,
    drain_timeout_s: float = 10.0,
    **app_options: Any,
) -> Iterator[Served]:
    """A server in a thread; drained, and its thread joined, at the end. With `speak` its model is a `SpeakingRunner`."""
    tokenizer, served_tokenizer = make_tokenizer(), make_tokenizer()
    for one in (tokenizer, served_tokenizer):
        one.add_special_tokens(list(special_tokens))
    served_tokenizer.enable_truncation(8)  # a trap that tokenizer.json files set
    recital = tokenizer.encode(RECITAL, add_special_tokens=False).ids
    runner: Any = RecitingRunner(tokenizer.get_vocab_size(), recital, **(runner_options or {}))
    if speak is not None:
        runner = SpeakingRunner(tokenizer, speak, **(runner_options or {}))
    engine = EngineCore(runner, [tokenizer.token_to_id("</s>")], max_num_waiting=max_num_waiting)
    chat_template = None if template is None else ChatTemplate(template, bos_token="<s>", eos_token="</s>")

    def build() -> Any:
        before_load()
        options = {"model_name": "tiny", "version": "1.2.3", "chat_template": chat_template} | app_options
        return create_app(engine, served_tokenizer, **options)

    server = Server(build, "127.0.0.1", 0, drain_timeout_s)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started and (server.loading.app or not wait_until_loaded))
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}", runner, engine, tokenizer, server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """One plain server that all tests share which do not upset it."""
    with running() as served:
        yield served


@pytest.fixture(scope="session")
def run_server() -> Callable[..., Any]:
    return running


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    return wait_for
