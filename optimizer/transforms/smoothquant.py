"""SmoothQuant (Xiao et al. 2022): outlier channels of activations are divided down, and their weights take the difference.

The paper's s_j = max|x_j|^a / max|w_j|^(1 - a), equation 4, and the same of root mean squares, which a single outlier does not
decide, are tried; the paper has one a for a model, here each group has its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.transforms.scale_search import Channels, Proposal, ScaleMethod

_STEPS = 10


def _propose(channels: Channels) -> Iterator[Proposal]:
    for step in range(_STEPS + 1):
        alpha = step / _STEPS
        yield {"alpha": alpha, "rms": 0}, channels.max_input**alpha / channels.max_weight ** (1 - alpha)
        yield {"alpha": alpha, "rms": 1}, channels.rms_input**alpha / channels.rms_weight ** (1 - alpha)


SMOOTHQUANT = ScaleMethod("smoothquant", _propose, for_activations=True)
