"""Tunes the Triton kernels of a model for a GPU that need not be present."""

from optimizer.tuning.gpu.ranking import Ranked
from optimizer.tuning.gpu.tuned_call import StaticSummary, TunedCall
from optimizer.tuning.gpu.tuner import GpuTuner, NoKernelFits

__all__ = ["GpuTuner", "NoKernelFits", "Ranked", "StaticSummary", "TunedCall"]
