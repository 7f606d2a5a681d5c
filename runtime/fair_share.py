"""Who was served how much: virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

#: What a token costs its client: one that is read, one that is written. The paper's weights, after what providers charge.
PROMPT_WEIGHT = 1
OUTPUT_WEIGHT = 2
_MAX_CLIENTS = 4096


class FairShare:
    """A counter for each client, in weighted tokens: of those that wait, the one that was served least goes next.

    A client that begins to wait is lifted to the smallest counter of those that wait already, or, if nobody does, to that of
    the last that did: idle time earns no credit. Beyond `max_clients` counters the longest untouched one is forgotten; its
    client then begins as a new one does, at the smallest counter.
    """

    def __init__(self, max_clients: int = _MAX_CLIENTS) -> None:
        self._max_clients = max_clients
        self._served: OrderedDict[str, int] = OrderedDict()
        self._floor = 0

    def __len__(self) -> int:
        return len(self._served)

    def served(self, client: str) -> int:
        """Weighted tokens, with what it was lifted by."""
        return self._served.get(client, self._floor)

    def activate(self, client: str, waiting: Iterable[str]) -> None:
        """`client` begins to wait beside the clients `waiting`."""
        self._floor = max(self._floor, min(map(self.served, waiting), default=self._floor))
        self._put(client, max(self.served(client), self._floor))

    def deactivate(self, client: str, waiting: Iterable[str]) -> None:
        """`client` waits no longer; those in `waiting` still do."""
        self._floor = max(self._floor, min(map(self.served, waiting), default=self.served(client)))

    def charge(self, client: str, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """`client` was served so many tokens."""
        self._put(client, self.served(client) + PROMPT_WEIGHT * num_prompt_tokens + OUTPUT_WEIGHT * num_output_tokens)

    def _put(self, client: str, served: int) -> None:
        self._served[client] = served
        self._served.move_to_end(client)
        if len(self._served) > self._max_clients:
            self._served.popitem(last=False)
