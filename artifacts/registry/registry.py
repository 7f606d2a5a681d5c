"""The registry as a folder: bundles go in whole, names move at once or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from artifacts.clock import utc_now
from artifacts.durable import created, sync_folder, sync_tree
from artifacts.errors import BundleError
from artifacts.manifest import Manifest
from artifacts.reader import verify_bundle
from artifacts.registry.history import Action, Event, History, past, values
from artifacts.registry.names import RegistryError, check_name, is_digest

FORMAT_VERSION = "1"
_MARK = "registry.json"
_INCOMING, _PRUNED, _WRITING = ".incoming", ".pruned", ".writing"


class Registry:
    """A registry at `root`. Any number of processes may read and write it; one at a time writes.

    Everything that is wrong is a RegistryError, or a BundleError of the bundle at fault.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.history_path = root / "history.jsonl"
        self._history = History(self.history_path)
        self._bundles = root / "bundles"
        self._evidence = root / "evidence"

    @classmethod
    def open(cls, root: Path) -> Registry:
        """The registry at `root`."""
        try:
            mark = json.loads((root / _MARK).read_text())
        except FileNotFoundError:
            raise RegistryError(
                f"{root} must be a registry (a folder with {_MARK}), and is not; "
                "promote a bundle into it to make one, or name another with --registry"
            ) from None
        except ValueError as error:
            raise RegistryError(f"{root / _MARK} must be JSON: {error}; restore it from a copy") from error
        version = mark.get("format_version") if isinstance(mark, dict) else None
        if version != FORMAT_VERSION:
            raise RegistryError(f"{root / _MARK}: this version reads format {FORMAT_VERSION!r}, got {version!r}")
        return cls(root)

    @classmethod
    def create(cls, root: Path) -> Registry:
        """The registry at `root`, made if there is none; RegistryError if something else is there."""
        if (root / _MARK).exists():
            return cls.open(root)
        _check_unused(root)
        root.mkdir(parents=True, exist_ok=True)
        registry = cls(root)
        with registry._locked():
            if not (root / _MARK).exists():
                for folder in (registry._bundles, registry._evidence):
                    folder.mkdir(exist_ok=True)
                registry.history_path.touch()
                data = json.dumps({"format_version": FORMAT_VERSION}) + "\n"
                _put(root / _MARK, data.encode())
        return registry

    # Reading

    def events(self) -> tuple[Event, ...]:
        """The whole history, checked."""
        return self._history.read()

    def names(self) -> dict[str, str]:
        """The digest that each name means."""
        return values(self.events())

    def digest_of(self, name: str) -> str:
        """What `name` means now."""
        return self.last_move(name).digest

    def last_move(self, name: str) -> Event:
        """The event since which `name` means what it means."""
        events = self.events()
        moves = [event for event in events if event.name == check_name(name) and event.moves]
        if not moves:
            known = ", ".join(sorted(values(events))) or "none yet"
            raise RegistryError(f"{self.root} has no name {name!r}; it has {known}")
        return moves[-1]

    def digests(self) -> list[str]:
        """Of all bundles that are here, sorted."""
        return sorted(path.name for path in self._bundles.iterdir() if not path.name.startswith("."))

    def folder(self, digest: str) -> Path:
        """Where the bundle of `digest` lies; the first 8 of its characters or more will do."""
        found = [known for known in self.digests() if known.startswith(digest)] if is_digest(digest) else []
        if len(found) != 1:
            raise RegistryError(
                f"a bundle is named by its digest, or the first 8 characters or more of it; {digest!r} is that of "
                f"{len(found)} bundles in {self.root}"
            )
        return self._bundles / found[0]

    def evidence(self, event: Event) -> bytes | None:
        """The file that `event` was decided on."""
        return None if event.evidence is None else (self._evidence / event.evidence).read_bytes()

    def verify(self) -> list[Manifest]:
        """The manifests of all bundles, after every byte of them and of the history and its evidence was checked."""
        for event in self.events():
            if (held := self.evidence(event)) is not None and hashlib.sha256(held).hexdigest() != event.evidence:
                raise RegistryError(f"{self._evidence / str(event.evidence)} was changed; restore it from a copy")
        for name, digest in self.names().items():
            if digest not in self.digests():
                raise RegistryError(f"{name} means {digest}, which is not in {self._bundles}: restore it, or roll back")
        return [self._verified(self._bundles / digest) for digest in self.digests()]

    # Writing

    def add(self, bundle: Path) -> str:
        """Copy the bundle in, unless it is here already, and return its digest. It is verified before and after."""
        digest = verify_bundle(bundle).digest
        home = self._bundles / digest
        if home.exists():
            return digest
        incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._bundles))
        try:
            with _flocked(incoming, fcntl.LOCK_EX):
                shutil.copytree(bundle, incoming, dirs_exist_ok=True, symlinks=True)
                if (arrived := verify_bundle(incoming).digest) != digest:
                    raise RegistryError(f"{bundle} changed while it was copied: its digest was {digest} and is {arrived}")
                for path in (path for path in incoming.rglob("*") if path.is_file()):
                    _sync_file(path)
                sync_tree(incoming)
                with self._locked():
                    if not home.exists():
                        incoming.rename(home)
                        sync_folder(self._bundles)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return digest

    def promote(
        self, name: str, digest: str, *, why: str, evidence: bytes | None = None, expected: str | None = None
    ) -> Event | None:
        """Let `name` mean the bundle of `digest`, which is here. None if it does already.

        With `expected`, the digest that the decision was made against, the name moves only if it still means that one.
        """
        home = self.folder(digest)
        with self._locked():
            events = self.events()
            now = values(events).get(check_name(name))
            if not home.is_dir():
                raise RegistryError(f"{home} was pruned in the meantime; add the bundle again")
            if expected is not None:
                _check_expected(name, now, expected)
            return None if now == home.name else self._record(events, "promote", name, home.name, now, why, evidence)

    def rollback(self, name: str, to: str | None = None, *, why: str, expected: str | None = None) -> Event:
        """Let `name` mean what it meant before; `to` is one of its earlier digests, left out the latest.

        With `expected`, the digest that is at fault, the name moves only if it still means that one.
        """
        with self._locked():
            events = self.events()
            here = past(events, check_name(name))
            if here and expected is not None:
                _check_expected(name, here[-1], expected)
            wanted = [digest for digest in here[:-1] if digest.startswith(to or "")]
            if not wanted:
                earlier = ", ".join(digest[:12] for digest in here[:-1]) or "none"
                raise RegistryError(
                    f"{name} can be rolled back to a bundle that it meant before: {earlier}; got {to or 'no digest: the last'}"
                )
            home = self._bundles / wanted[-1]
            if not home.is_dir():
                raise RegistryError(f"{wanted[-1]} was pruned; promote a bundle that is in {self._bundles}, or add it again")
            return self._record(events, "rollback", name, wanted[-1], here[-1], why, None)

    def note(self, name: str, *, why: str, evidence: bytes) -> Event:
        """Keep what a night found about `name` and its `evidence`, and leave the name where it is."""
        with self._locked():
            events = self.events()
            digest = self.digest_of(name)
            return self._record(events, "retune", name, digest, digest, why, evidence)

    def prune(self, keep: int) -> list[str]:
        """Remove bundles that no name means, and that are not among the last `keep` that a name can be rolled back to.

        Returns the digests that were removed. History and evidence stay.
        """
        with self._locked():
            events = self.events()
            kept = {digest for name in values(events) for digest in past(events, name)[-1 - keep :]}
            removed = [digest for digest in self.digests() if digest not in kept]
            for digest in removed:
                # Renamed first: a bundle that is half gone never lies under its name.
                (self._bundles / digest).rename(self._bundles / f"{_PRUNED}{digest}")
            left = (self._bundles.glob(f"{_PRUNED}*"), self.root.glob(f"{_WRITING}*"), self._evidence.glob(f"{_WRITING}*"))
            for path in (path for paths in left for path in paths):
                shutil.rmtree(path)
            for path in self._bundles.glob(f"{_INCOMING}*"):
                _remove_unless_held(path)
            sync_folder(self._bundles)
        return removed

    def _record(
        self,
        events: Sequence[Event],
        action: Action,
        name: str,
        digest: str,
        replaces: str | None,
        why: str,
        evidence: bytes | None,
    ) -> Event:
        if not why.isprintable() or not why.strip():
            raise RegistryError(f"why must be one line of text, got {why!r}")
        held = None if evidence is None else hashlib.sha256(evidence).hexdigest()
        sequence, previous = self._history.next_place(events)
        event = Event(
            sequence=sequence,
            previous=previous,
            time=utc_now(),
            action=action,
            name=name,
            digest=digest,
            replaces=replaces,
            why=why,
            evidence=held,
        )
        if evidence is not None and held is not None and not (self._evidence / held).exists():
            _put(self._evidence / held, evidence)
        self._history.append(events, event)
        return event

    def _verified(self, folder: Path) -> Manifest:
        manifest = verify_bundle(folder)
        if manifest.digest != folder.name:
            raise BundleError(f"{folder} must hold the bundle of that digest, got {manifest.digest}; add it again", folder)
        return manifest

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time."""
        (self.root / ".lock").touch()
        with _flocked(self.root / ".lock", fcntl.LOCK_EX):
            yield


def _check_expected(name: str, now: str | None, expected: str) -> None:
    if now != expected:
        raise RegistryError(
            f"{name} must still mean {expected}, against which the decision was made, and means {now}; decide again"
        )


def _check_unused(root: Path) -> None:
    """RegistryError unless all that is at `root` is what another maker, at work or killed, puts there before the mark."""
    ours = {".lock", "bundles", "evidence", "history.jsonl", _MARK}
    others = [path.name for path in root.iterdir() if path.name not in ours] if root.exists() else []
    if any(not name.startswith(_WRITING) for name in others):
        raise RegistryError(f"{root} must be a registry, an empty folder or not exist yet, and holds {sorted(others)[0]}")


def _put(path: Path, data: bytes) -> None:
    """A new file under its name, whole or not at all."""
    folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=path.parent))
    try:
        with created(folder / path.name) as file:
            file.write(data)
        (folder / path.name).replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _flocked(path: Path, flags: int) -> Iterator[None]:
    """The lock of the file or folder at `path`; it goes with its holder, however that ends. BlockingIOError with LOCK_NB."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, flags)
        yield
    finally:
        os.close(descriptor)


def _remove_unless_held(incoming: Path) -> None:
    """Remove what a killed `add` left; one that goes on holds the lock of its folder."""
    with suppress(BlockingIOError, FileNotFoundError), _flocked(incoming, fcntl.LOCK_EX | fcntl.LOCK_NB):
        shutil.rmtree(incoming)
