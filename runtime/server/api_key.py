"""The key that clients must carry."""

from __future__ import annotations

import hmac

from artifacts.errors import UserError


class ApiKey:
    """A bearer token. Raises UserError, which does not tell the key, unless it is one that can be sent (RFC 6750)."""

    def __init__(self, key: str) -> None:
        if not key:
            raise UserError("an API key must have at least one character, got none; leave it out to let everyone in")
        if not all("!" <= character <= "~" for character in key):
            raise UserError(
                "an API key must be visible ASCII characters without spaces, got one with others; "
                "look for a space or a line break in it"
            )
        self._key = key.encode()

    def is_in(self, authorization: str) -> bool:
        """Whether this header, decoded as Latin-1, carries the key. The scheme's case does not matter (RFC 9110)."""
        scheme, _, key = authorization.partition(" ")
        return hmac.compare_digest(key.strip(" ").encode("latin-1"), self._key) and scheme.lower() == "bearer"
