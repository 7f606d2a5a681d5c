"""Analytical time of GPU kernels: what a kernel should take, before any GPU has run it."""

from optimizer.cost.gpu.facts import GpuFacts, gpu_facts
from optimizer.cost.gpu.matmul_time import Breakdown, Ranked, rank, time_us
from optimizer.cost.gpu.problem import MatmulProblem, Tile
from optimizer.cost.gpu.resources import StaticFacts

__all__ = ["Breakdown", "GpuFacts", "MatmulProblem", "Ranked", "StaticFacts", "Tile", "gpu_facts", "rank", "time_us"]
