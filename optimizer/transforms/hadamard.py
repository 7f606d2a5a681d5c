"""Hadamard matrices: entries +-1, orthogonal rows.

Orders 1 and 2, Kronecker products (Sylvester 1867), and for odd primes q Paley's two constructions (1933): q + 1 where
q = 3 mod 4, and 2 (q + 1) where q = 1 mod 4. Together they give every hidden size and head size of the supported
families' released models but OpenLLaMA 3B's heads of 100; Paley's constructions over prime powers, and sporadic orders (92,
100, ...), are not here.
"""

from __future__ import annotations

import math
from functools import cache, reduce

import torch
from torch import Tensor

from artifacts.errors import UserError

_LARGEST_FACTOR = 64
"""Powers of two are split into factors of at most this order: applying them is then a few small matrix products."""


class NoHadamardMatrixError(UserError):
    """No Hadamard matrix of this order exists, or none is constructed here."""


@cache
def hadamard_factors(order: int) -> tuple[Tensor, ...]:
    """int8 matrices of +-1 whose Kronecker product is a Hadamard matrix of `order`; at most one is not a power of two.

    Raises NoHadamardMatrixError. Not to be changed: they are kept.
    """
    if (order > 2 and order % 4) or order < 1:
        raise NoHadamardMatrixError(f"a Hadamard matrix has order 1, 2 or a multiple of 4, got {order}")
    odd = order // (order & -order)
    core = torch.ones(1, 1, dtype=torch.int8) if odd == 1 else _core(order, odd)
    factors = [core] if odd > 1 else []
    rest = order // len(core)
    while rest > 1:
        factors.append(_sylvester(min(rest, _LARGEST_FACTOR)))
        rest //= len(factors[-1])
    return tuple(factors) or (core,)


def hadamard(order: int) -> Tensor:
    """A Hadamard matrix, int8 [order, order]. Raises NoHadamardMatrixError."""
    return reduce(torch.kron, hadamard_factors(order))


def _core(order: int, odd: int) -> Tensor:
    """Paley's matrix of the smallest order that is a power of two times `odd` and divides `order`."""
    for shift in range(2, (order // odd).bit_length()):
        matrix = _paley(odd << shift)
        if matrix is not None:
            return matrix
    raise NoHadamardMatrixError(
        f"no Hadamard matrix of order {order} is constructed here: no divisor that is {odd} times a power of two is q + 1 of a "
        "prime q = 3 mod 4, or 2 (q + 1) of a prime q = 1 mod 4"
    )


def _sylvester(order: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.int8)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _paley(order: int) -> Tensor | None:
    if _is_prime(order - 1) and (order - 1) % 4 == 3:
        conference = _conference(order - 1)
        return conference + torch.eye(order, dtype=torch.int8)
    if _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
        conference = _conference(order // 2 - 1)
        off = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
        on = torch.tensor([[1, -1], [-1, -1]], dtype=torch.int8)
        return torch.kron(conference, off) + torch.kron(torch.eye(order // 2, dtype=torch.int8), on)
    return None


def _conference(q: int) -> Tensor:
    """int8 [q + 1, q + 1]: Jacobsthal's matrix, bordered; symmetric for q = 1 mod 4, skew for 3 mod 4."""
    character = torch.full((q,), -1, dtype=torch.int8)
    character[(torch.arange(1, q) ** 2) % q] = 1
    character[0] = 0
    numbers = torch.arange(q)
    bordered = torch.zeros(q + 1, q + 1, dtype=torch.int8)
    bordered[0, 1:] = 1
    bordered[1:, 0] = 1 if q % 4 == 1 else -1
    bordered[1:, 1:] = character[(numbers[:, None] - numbers[None, :]) % q]
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
