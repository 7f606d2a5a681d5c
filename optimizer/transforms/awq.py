"""AWQ (Lin et al. 2023): channels that carry large activations get finer steps.

The paper's s = mean|x|^a leaves the columns of W out. Rounding to a grid whose step is the largest of |w_j| s_j in a group
errs by step / s_j in channel j, so the loss is about max_j(|w_j| s_j)^2 * sum_j (x_j / s_j)^2; with the maximum taken as a
p-norm its minimum is at s_j = x_j^a / |w_j|^(1 - a), a = 2 / (p + 2). Both families are tried.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.transforms.scale_search import Channels, Proposal, ScaleMethod

_STEPS = 10


def _propose(channels: Channels) -> Iterator[Proposal]:
    inputs, weights = channels.mean_input, channels.rms_weight
    for step in range(_STEPS + 1):
        alpha = step / _STEPS
        yield {"alpha": alpha, "beta": 0.0}, inputs**alpha
        yield {"alpha": alpha, "beta": 1 - alpha}, inputs**alpha / weights ** (1 - alpha)


AWQ = ScaleMethod("awq", _propose)
