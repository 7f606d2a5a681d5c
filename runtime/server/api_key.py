"""The keys that clients must carry, and the names by which they are known here."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from artifacts.errors import UserError
from artifacts.text_file import read_text

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: The name of the key of --api-key.
_ONLY = "default"
_LOOK_EVERY_S = 1.0


def digest(key: str) -> str:
    """What is kept of a key. Raises UserError, which does not tell the key, unless it is one that can be sent (RFC 6750)."""
    if not key:
        raise UserError("an API key must have at least one character, got none; leave it out to let everyone in")
    if not all("!" <= character <= "~" for character in key):
        raise UserError(
            "an API key must be visible ASCII characters without spaces, got one with others; "
            "look for a space or a line break in it"
        )
    return sha256(key.encode()).hexdigest()


def has_share(client: str) -> bool:
    """Whether a client is one of several, as far as is known: its key stands in a file."""
    return client not in ("", _ONLY)


def read_keys(path: Path) -> dict[str, str]:
    """The digests of a file of keys, by name. UserError names the line that is not `NAME:SHA256`, and never quotes it."""
    keys: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "a file of API keys").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, digest_ = (part.strip() for part in line.partition(":"))
        if not _NAME.fullmatch(name):
            rule = "begin with a name of 1 to 64 letters, digits, dots, dashes and underscores, and a colon"
        elif not _DIGEST.fullmatch(digest_):
            rule = f"have 64 lower-case hexadecimal digits after {name!r} and the colon, got {len(digest_)} characters"
        elif name in keys:
            rule = f"have a name of its own, and {name!r} stands above"
        else:
            keys[name] = digest_
            continue
        raise UserError(f"{path}:{number}: a key must {rule}; make one with printf %s KEY | sha256sum")
    if not keys:
        raise UserError(f"{path}: a file of API keys must have at least one, got none; nobody could come in")
    return keys


class ApiKeys:
    """One key, a file of keys, or both. A changed file counts within a second; a malformed one is logged, and the old counts.

    Keys are compared by their digests, each with all of them and in constant time. Raises UserError as `digest` and
    `read_keys` do.
    """

    def __init__(self, key: str | None, file: Path | None, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._own = {} if key is None else {_ONLY: digest(key)}
        self._file = file
        self._clock_s = clock_s
        self._looked_s = clock_s()
        self._state = self._file_state()
        self._keys: Mapping[str, str] = self._own if file is None else {**self._own, **read_keys(file)}

    def name_of(self, authorization: str) -> str | None:
        """The name of the key in this header, decoded as Latin-1; None if there is none. The scheme's case does not matter."""
        self._look()
        scheme, _, key = authorization.partition(" ")
        given = sha256(key.strip(" ").encode("latin-1")).hexdigest()
        found = None
        for name, kept in self._keys.items():
            if hmac.compare_digest(given, kept):
                found = name
        return found if scheme.lower() == "bearer" else None

    def _look(self) -> None:
        now_s = self._clock_s()
        if self._file is None or now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        state = self._file_state()
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = {**self._own, **read_keys(self._file)}
            logger.info("%s has changed: %d keys", self._file, len(self._keys))
        except UserError as error:
            logger.error("the API keys stay as they were: %s", error)

    def _file_state(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None if it is not there."""
        try:
            state = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if state is None else (state.st_ino, state.st_size, state.st_mtime_ns)
