"""The queue before the running batch: by priority, then those that were preempted, then the client that was served least."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from runtime.fair_share import PROMPT_WEIGHT, FairShare
from runtime.sequence import Sequence


@dataclass
class _Level:
    """Those of one priority. `clients` has no empty queue; each is in order of arrival, with the arrival's number."""

    preempted: deque[Sequence] = field(default_factory=deque)
    clients: dict[str, deque[tuple[int, Sequence]]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.preempted or self.clients)


class WaitingQueue:
    """Sequences without a seat. Its order depends on what clients were served until now, and so changes while they wait."""

    def __init__(self, shares: FairShare) -> None:
        self._shares = shares
        self._levels: dict[int, _Level] = {}
        self._num_waiting: Counter[str] = Counter()
        self._num_arrivals = 0

    def __len__(self) -> int:
        return self._num_waiting.total()

    def __iter__(self) -> Iterator[Sequence]:
        """Who would be admitted next, then who after that, if each was served its prompt and nobody came."""
        for _, level in sorted(self._levels.items()):
            yield from level.preempted
            turns = [(self._shares.served(client), queue[0][0], client, 0) for client, queue in level.clients.items()]
            heapify(turns)
            while turns:
                served, _, client, position = turns[0]
                queue = level.clients[client]
                sequence = queue[position][1]
                yield sequence
                position += 1
                if position == len(queue):
                    heappop(turns)
                else:
                    served += PROMPT_WEIGHT * sequence.num_prompt_tokens
                    heapreplace(turns, (served, queue[position][0], client, position))

    def num_of(self, client: str) -> int:
        """How many of them are `client`'s."""
        return self._num_waiting[client]

    def add(self, sequence: Sequence) -> None:
        """A new one, behind its client's others of its priority."""
        client = self._count(sequence)
        queue = self._level(sequence).clients.setdefault(client, deque())
        queue.append((self._num_arrivals, sequence))
        self._num_arrivals += 1

    def put_back(self, sequence: Sequence) -> None:
        """One that was running, before all others of its priority; the youngest must be put back first."""
        self._count(sequence)
        self._level(sequence).preempted.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """ValueError if it does not wait."""
        client, priority = sequence.request.client, sequence.request.priority
        level = self._levels[priority]
        if sequence in level.preempted:
            level.preempted.remove(sequence)
        else:
            queue = level.clients[client]
            queue.remove(next(item for item in queue if item[1] is sequence))
            if not queue:
                del level.clients[client]
        if level.is_empty:
            del self._levels[priority]
        self._num_waiting[client] -= 1
        if not self._num_waiting[client]:
            del self._num_waiting[client]
            self._shares.deactivate(client, self._num_waiting)

    def _count(self, sequence: Sequence) -> str:
        client = sequence.request.client
        if client not in self._num_waiting:
            self._shares.activate(client, self._num_waiting)
        self._num_waiting[client] += 1
        return client

    def _level(self, sequence: Sequence) -> _Level:
        return self._levels.setdefault(sequence.request.priority, _Level())
