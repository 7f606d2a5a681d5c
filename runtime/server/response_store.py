"""Responses that can be gone on with and asked for again: in this process's memory, within bounds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from runtime.server.errors import ApiError
from runtime.server.wording import shown

MAX_NUM_RESPONSES = 1024
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class KeptResponse:
    """JSON: the response as it was answered, and the items of its whole conversation, the answer's among them.

    `client` is the name of the API key that it was answered to; to others it does not exist.
    """

    response: bytes
    items: bytes
    client: str = ""

    @property
    def num_bytes(self) -> int:
        return len(self.response) + len(self.items)


class ResponseStore:
    """Of more than `max_num` responses, or more than `max_bytes` in all, those go that were not used for the longest time.

    Lives in the event loop.
    """

    def __init__(self, max_num: int = MAX_NUM_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_num = max_num
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, id: str, kept: KeptResponse) -> None:
        """Keep it, if it is within the bounds by itself."""
        if kept.num_bytes > self._max_bytes or not self._max_num:
            return
        self._kept[id] = kept
        self.num_bytes += kept.num_bytes
        while len(self._kept) > self._max_num or self.num_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.num_bytes -= oldest.num_bytes

    def get(self, id: str, client: str = "", *, param: str | None = None) -> KeptResponse:
        """The response, which is in use now. ApiError: 400 if a field of a request names it (`param`), else 404."""
        kept = self._kept.get(id)
        if kept is None or kept.client != client:
            raise self._unknown(id, param)
        self._kept.move_to_end(id)
        return kept

    def delete(self, id: str, client: str = "") -> None:
        """ApiError 404 if it is not kept."""
        self.num_bytes -= self.get(id, client).num_bytes
        del self._kept[id]

    def _unknown(self, id: str, param: str | None) -> ApiError:
        message = (
            f"{param or 'the id'} must be that of a response that is kept here, got {shown(id)}; responses are kept in memory "
            f"unless store is false, the {self._max_num} last used ones within {self._max_bytes // 2**20} MiB; "
            "send the whole conversation as input instead"
        )
        return ApiError(400 if param else 404, message, param=param, code="previous_response_not_found" if param else None)
