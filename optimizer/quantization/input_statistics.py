"""What the inputs of a layer group look like on calibration text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: input rows of each calibration sequence that are kept as they are
SAMPLE_ROWS_PER_SEQUENCE = 8


@dataclass(frozen=True)
class InputStatistics:
    """Of the rows x [K] that meet a group's weights W[N, K], over all calibration tokens. All tensors fp32, on the CPU."""

    hessian: Tensor
    """[K, K], the mean of x x^T: half the Hessian of the mean squared output error by a row of W."""
    mean_abs: Tensor
    """[K], the mean of |x|."""
    max_abs: Tensor
    """[K], the largest |x|."""
    sample: Tensor
    """[S, K], some of the rows, evenly spaced in each sequence."""

    def loss(self, difference: Tensor) -> float:
        """Mean squared error, summed over outputs, of outputs whose weights are off by `difference` [N, K]; fp64."""
        difference = difference.to(torch.float64)
        return float(((difference @ self.hessian.to(torch.float64)) * difference).sum())


class InputAccumulator:
    """Adds up the statistics of one group, sequence by sequence. Memory: the K x K sum, and the sample."""

    def __init__(self, num_columns: int) -> None:
        self.num_rows = 0
        """How many were added."""
        self._products = torch.zeros(num_columns, num_columns)
        self._sum_abs = torch.zeros(num_columns, dtype=torch.float64)
        self._max_abs = torch.zeros(num_columns)
        self._sample: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """The inputs of one sequence, fp32 [T, K]."""
        self.num_rows += len(rows)
        self._products.addmm_(rows.T, rows)
        magnitude = rows.abs()
        self._sum_abs += magnitude.sum(dim=0, dtype=torch.float64)
        self._max_abs = torch.maximum(self._max_abs, magnitude.amax(dim=0))
        kept = torch.linspace(0, len(rows) - 1, min(SAMPLE_ROWS_PER_SEQUENCE, len(rows))).round().long()
        self._sample.append(rows[kept].clone())

    def statistics(self) -> InputStatistics:
        """Of all that was added; zeros if nothing was. Takes the sums along: the accumulator is spent."""
        num_rows = max(self.num_rows, 1)
        return InputStatistics(
            hessian=self._products.div_(num_rows),
            mean_abs=(self._sum_abs / num_rows).to(torch.float32),
            max_abs=self._max_abs,
            sample=torch.cat([self._max_abs.new_zeros(0, len(self._max_abs)), *self._sample]),
        )
