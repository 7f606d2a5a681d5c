"""A folder of bundles by digest, and the names that move between them. See REGISTRY.md."""

from artifacts.registry.history import Event
from artifacts.registry.names import RegistryError
from artifacts.registry.registry import Registry
from artifacts.registry.watch import NameWatch

__all__ = ["Event", "NameWatch", "Registry", "RegistryError"]
