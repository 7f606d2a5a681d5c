"""What a name means, looked at again and again: cheap while nothing moves."""

from __future__ import annotations

from pathlib import Path

from artifacts.registry.history import Event
from artifacts.registry.names import RegistryError
from artifacts.registry.registry import Registry


class NameWatch:
    """Of `name` in the registry at `root`. A look is one `stat` of the history, which is read only where it has changed."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self._seen: tuple[int, ...] = ()
        self._last: Event | None = None

    def look(self) -> Event:
        """The event since which the name means what it means. RegistryError where there is none, or no registry."""
        registry = Registry.open(self.root) if self._last is None else Registry(self.root)
        try:
            status = registry.history_path.stat()
            seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if self._last is None or seen != self._seen:
                self._last, self._seen = registry.last_move(self.name), seen
        except OSError as error:
            raise RegistryError(
                f"{registry.history_path} cannot be read ({error.strerror}); bring the registry back"
            ) from error
        return self._last
