"""Compiles many kernels at once and keeps every result: what was compiled before is read, what is killed loses one kernel."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from kernels.compile.toolchain import assembler, assembler_version
from kernels.cpu.host import host
from kernels.gpu.binary import BinaryMetadata
from kernels.gpu.kernel_source import KernelSource
from kernels.refusal import Refusal
from kernels.registry import ROOT

_REPOSITORY = ROOT.parent
_IMPORT = re.compile(r"^from kernels\.(\w+)\.triton import", re.MULTILINE)


class NoTriton(Refusal):
    """Triton is not installed."""


class KernelCompileFailed(Exception):
    """A kernel does not compile; the message says which and why."""


class CompilerKilled(Exception):
    """The compiler's process was killed from outside: nothing is known about the kernel."""


class Compiled:
    """A compiled kernel in the cache: `folder` has image, metadata.json and, for AMD, amdgcn."""

    def __init__(self, source: KernelSource, folder: Path) -> None:
        self.source = source
        self.folder = folder

    @property
    def image(self) -> bytes:
        """The cubin or hsaco."""
        return (self.folder / "image").read_bytes()

    @property
    def metadata(self) -> BinaryMetadata:
        """What launching it takes."""
        return BinaryMetadata.from_json(json.loads((self.folder / "metadata.json").read_text(encoding="utf-8")))


class CrossCompiler:
    """Compiles `KernelSource`s for any known architecture on `jobs` processes, which start when first needed.

    Results are kept under `cache_folder` by what determines them: the source's identity, the text of the kernels, and the
    versions of Triton and ptxas; no path is part of a key. A failure is a result too.
    """

    def __init__(self, cache_folder: Path | None = None, jobs: int | None = None) -> None:
        self._cache = cache_folder or default_cache()
        self._num_workers = jobs or host().num_cores
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers, self._idle = [], SimpleQueue()

    def compile(
        self, sources: Iterable[KernelSource], on_compiled: Callable[[], None] = lambda: None
    ) -> Mapping[str, Compiled | KernelCompileFailed]:
        """Identity -> kernel, or why there is none, for every source. NoTriton where nothing can be compiled."""
        distinct = {source.identity: source for source in sources}
        missing = [source for source in distinct.values() if not self._known(source)]
        if missing:
            self._start(min(self._num_workers, len(missing)))

        def compile_one(source: KernelSource) -> None:
            worker = self._idle.get()
            try:
                self._compile(worker, source)
            finally:
                self._idle.put(worker)
            on_compiled()

        with ThreadPoolExecutor(max(1, len(self._workers))) as pool:
            list(pool.map(compile_one, missing))
        for _ in range(len(distinct) - len(missing)):
            on_compiled()
        return {identity: self._read(source) for identity, source in distinct.items()}

    def _start(self, num_workers: int) -> None:
        if not compiler_versions():
            raise NoTriton("GPU kernels are compiled by Triton, which is not installed; pip install 'coldforge[gpu]'")
        while len(self._workers) < num_workers:
            self._workers.append(_Worker())
            self._idle.put(self._workers[-1])

    def _folder(self, source: KernelSource) -> Path:
        key = f"{source.identity} {sources_digest(source.op)} {compiler_versions()}"
        return self._cache / hashlib.sha256(key.encode()).hexdigest()

    def _known(self, source: KernelSource) -> bool:
        return self._folder(source).exists()

    def _read(self, source: KernelSource) -> Compiled | KernelCompileFailed:
        folder = self._folder(source)
        failure = folder / "error"
        return KernelCompileFailed(failure.read_text(encoding="utf-8")) if failure.exists() else Compiled(source, folder)

    def _compile(self, worker: _Worker, source: KernelSource) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=".partial-") as partial:
            built = Path(partial) / "built"
            if error := worker.compile(source, built):
                shutil.rmtree(built, ignore_errors=True)
                built.mkdir()
                what = f"{source.op}.{source.function} with {dict(source.constants)}, {source.num_warps} warps, "
                message = f"{what}{source.num_stages} stages does not compile for {source.arch}: {error}"
                (built / "error").write_text(message, encoding="utf-8")
            try:
                built.rename(self._folder(source))
            except OSError:
                # Somebody else compiled the same meanwhile.
                if not self._known(source):
                    raise


class _Worker:
    """A process of `kernels.compile.worker`, started again when a compiler crash takes it down."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="coldforge-triton-")
        self._process = self._spawn()

    def compile(self, source: KernelSource, folder: Path) -> str | None:
        """Compiles into `folder`; returns why it could not."""
        job = json.dumps({"source": source.to_json(), "folder": str(folder)})
        # A second try tells a kernel that crashes the compiler from a compiler that somebody else killed.
        for _ in range(2):
            if answer := self._ask(job):
                error: str | None = json.loads(answer)["error"]
                return error
            status = self._process.wait()
            self._process = self._spawn()
            shutil.rmtree(folder, ignore_errors=True)
        if status == -signal.SIGKILL:
            raise CompilerKilled("the compiler was killed twice, most likely because memory ran out; use fewer jobs")
        return f"the compiler crashed (exit status {status})"

    def _ask(self, job: str) -> str:
        """The answer to a job; empty where the process died over it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(job + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except BrokenPipeError:
            return ""

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._scratch.cleanup()

    def _spawn(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        # Line tables hold the path of the sources: without them a kernel is the same wherever it is built.
        environment |= {"TRITON_CACHE_DIR": self._scratch.name, "TRITON_DISABLE_LINE_INFO": "1"}
        environment |= dict.fromkeys(("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH"), str(assembler()))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            [sys.executable, "-m", "kernels.compile.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )


def default_cache() -> Path:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/coldforge/kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coldforge" / "kernels"


@cache
def sources_digest(op: str) -> str:
    """sha256 of the op's triton.py and of those that it imports device functions from."""
    pending, texts = [op], dict[str, str]()
    while pending:
        name = pending.pop()
        if name not in texts:
            texts[name] = (ROOT / name / "triton.py").read_text(encoding="utf-8")
            pending += _IMPORT.findall(texts[name])
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


@cache
def gpu_sources_digest() -> str:
    """sha256 of everything that GPU kernels are planned, tuned and compiled from."""
    files = sorted({*ROOT.glob("*/*.py"), *ROOT.glob("*.py")})
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


@cache
def compiler_versions() -> str:
    """Of Triton and of what assembles for NVIDIA; empty where there is no Triton."""
    try:
        return f"triton {version('triton')} ptxas {assembler_version(assembler())}"
    except ModuleNotFoundError:
        return ""
