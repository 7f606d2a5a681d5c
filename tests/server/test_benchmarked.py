"""The benchmark finds in this server everything that it can use."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime.bench.client import ClosedLoop, Endpoint, run_load


def test_prompts_and_answers_have_the_exact_length(served: Any) -> None:
    async def measure() -> Any:
        endpoint = await Endpoint.connect(served.url)
        run = await run_load(endpoint, await endpoint.prompts(100, 4, seed=1), 30, ClosedLoop(2))
        await endpoint.close()
        return endpoint, run

    endpoint, run = asyncio.run(measure())
    assert endpoint.has_tokenizer and endpoint.forces_length
    assert [(a.error, a.num_prompt_tokens, a.num_output_tokens) for a in run.answers] == [(None, 100, 30)] * 4
