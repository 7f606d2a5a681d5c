"""Recording a step once, to replay it with one call; no GPU has run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Recorder(Protocol):
    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What does again, with one call, what `launch` enqueues on the current stream."""
        ...


class CudaGraphs:
    """Records CUDA graphs, which share one pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        launch()  # loads what is loaded lazily, before anything is recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            launch()
        replay: Callable[[], None] = graph.replay
        return replay
