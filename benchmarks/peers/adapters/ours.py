"""A bundle of ours, in process: `runtime.loading.load` and the engine's steps."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))


class Adapter:
    def load(self, model: str, num_threads: int, max_tokens: int) -> dict:
        from artifacts.kv_cache import kv_bytes_per_token
        from runtime.loading import load

        self._folder, self._num_threads, self._num_requests = Path(model), num_threads, 0
        loaded = load(self._folder, num_threads)
        self._engine = loaded.engine
        manifest, limits = loaded.manifest, loaded.manifest.serving
        if limits.max_model_len < max_tokens:
            raise ValueError(f"the bundle's max_model_len is {limits.max_model_len}, this run needs {max_tokens}")
        num_slots = limits.num_kv_blocks * limits.kv_block_size
        per_token = kv_bytes_per_token(manifest.architecture, manifest.precision.kv_cache)
        return {
            "versions": {"coldforge": manifest.provenance.tool_version},
            "flags": {
                "isa": manifest.target.isa,
                "kv_cache": manifest.precision.kv_cache,
                "schemes": sorted(set(manifest.precision.groups.values())),
                **limits.model_dump(),
                "num_threads": num_threads,
            },
            "kv_bytes": num_slots * per_token,
        }

    def generate(self, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
        self._add(prompt, num_tokens)
        tokens, times = [], []
        while self._engine.has_work():
            for output in self._engine.step():
                if output.error is not None:
                    raise output.error
                tokens.append(output.token_id)
                times.append(time.perf_counter())
        return tokens, times

    def batch(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        generated: dict[str, list[int]] = {self._add(prompt, num_tokens): [] for prompt in prompts}
        while self._engine.has_work():
            for output in self._engine.step():
                if output.error is not None:
                    raise output.error
                generated[output.request_id].append(output.token_id)
        return list(generated.values())

    def logits(self, tokens: list[int]):
        from artifacts.reader import open_bundle
        from kernels.cpu.host import host
        from runtime.loading import load_runner
        from runtime.scoring import score

        # The engine owns its runner's cache, so text is scored through another one.
        if not hasattr(self, "_runner"):
            bundle = open_bundle(self._folder, machine=host().machine, cpu_flags=host().flags, gpu_arch=lambda: None)
            self._runner = load_runner(bundle, self._num_threads)
        return score(self._runner, tokens)

    def _add(self, prompt: list[int], num_tokens: int) -> str:
        from runtime.request import Request, SamplingParams

        self._num_requests += 1
        params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        self._engine.add(Request(str(self._num_requests), tuple(prompt), params))
        return str(self._num_requests)
