"""Seeded bugs: a change of one op's triton.py, and the case that must catch it. Each op lists its own in mutations_<op>.py."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from kernels import registry


@dataclass(frozen=True)
class Mutation:
    """`old` stands once in kernels/<op>/triton.py; with `new` in its place, `case` of `symbol` must fail the contract."""

    name: str
    op: str
    old: str
    new: str
    symbol: str
    case: str

    def module(self, folder: Path) -> ModuleType:
        """The op's kernels with the bug in, imported from a file in `folder`: Triton reads a kernel's source from its file."""
        source = (registry.ROOT / self.op / "triton.py").read_text(encoding="utf-8")
        assert source.count(self.old) == 1, f"{self.name}: {self.old!r} must stand once in {self.op}/triton.py"
        mutated = source.replace(self.old, self.new)
        name = f"mutated_{hashlib.sha256(mutated.encode()).hexdigest()[:16]}"
        path = folder / f"{name}.py"
        path.write_text(mutated, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
