"""A PostgreSQL server of its own for a test: Debian's, in a temporary folder, over a socket of 127.0.0.1."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

PASSWORD = "a word that only the test knows"


@dataclass
class PostgreSQL:
    """A server of which `start` and `stop` may be called again and again; `url` is for Optuna."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of("study")

    def url_of(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://optuna:{password.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str = "") -> str:
        """An empty database, of a new name where none is given; its name."""
        database = database or f"study_{uuid4().hex[:8]}"
        command = [_program("createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "optuna", database]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PGPASSWORD": PASSWORD})
        return database

    def start(self) -> None:
        """Returns once it answers."""
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        command = [_program("postgres"), "-D", str(self.folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, user=_user())
        ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "30"]
        for _ in range(300):
            if subprocess.run(ready).returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            subprocess.run(["sleep", "0.1"])
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """At once: connections are cut."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
            self.process = None


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server with an empty database `study`, gone afterwards. The user `optuna` needs its password."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    server = PostgreSQL(folder, _free_port())
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        if _user() is not None:
            shutil.chown(folder, _user())
            shutil.chown(password, _user())
        command = [_program("initdb"), "-D", str(folder / "data"), "-U", "optuna", "--auth", "scram-sha-256"]
        command += ["--pwfile", str(password), "--encoding", "UTF8", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=_user(), cwd=folder)
        server.start()
        server.create("study")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _user() -> str | None:
    """Whom the server runs as: it refuses root, so then Debian's own account for it."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _program(name: str) -> str:
    """Debian keeps a server's programs beside those of its other versions, none of them in the PATH."""
    found = [path / name for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / name).exists()]
    program = str(max(found)) if found else shutil.which(name)
    assert program, f"{name} is PostgreSQL's: install Debian's package postgresql, as .ci/run does"
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
