"""The dependency rules of docs/architecture.md, read from the imports of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

#: package -> packages of the house that it may import
MAY_IMPORT = {
    "artifacts": set[str](),
    "search_spaces": {"artifacts"},
    "kernels": set[str](),
    "runtime": {"artifacts", "kernels"},
    "optimizer": {"artifacts", "search_spaces", "kernels", "runtime"},
}
#: package -> third parties that it never imports
NEVER_IMPORTS = {
    "artifacts": {"torch", "optuna", "transformers"},
    "search_spaces": {"torch", "optuna", "transformers"},
    "kernels": {"optuna", "transformers"},
    "runtime": {"optuna", "transformers"},
    "optimizer": {"transformers"},
}


class Import(NamedTuple):
    """`module` as it is imported at `line`; `lazy` inside a function, `typing_only` under TYPE_CHECKING."""

    module: str
    line: int
    lazy: bool
    typing_only: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[Import]:
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), path, lazy=False, typing_only=False))


def _walk(node: ast.AST, path: Path, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, lazy, typing_only) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = path.relative_to(ROOT).parent.parts[: -(node.level - 1) or None] if node.level else ()
        module = ".".join([*base, *([node.module] if node.module else [])])
        # `from kernels import registry` imports kernels.registry
        yield from (Import(f"{module}.{alias.name}", node.lineno, lazy, typing_only) for alias in node.names)
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    guarded = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        in_body = isinstance(node, ast.If) and child in node.body
        yield from _walk(child, path, lazy=lazy, typing_only=typing_only or (guarded and in_body))


def faults(package: str) -> Iterator[str]:
    house = set(MAY_IMPORT)
    for path in modules(package):
        place = path.relative_to(ROOT)
        for item in imports(path):
            if item.package in house - MAY_IMPORT[package] - {package}:
                allowed = ", ".join(sorted(MAY_IMPORT[package])) or "no other package"
                yield f"{place}:{item.line} imports {item.module}: {package} may import {allowed}"
            if item.package in NEVER_IMPORTS[package]:
                yield f"{place}:{item.line} imports {item.module}: {package} never does"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_they_may(package: str) -> None:
    assert not (found := list(faults(package))), "\n".join(found)


def test_a_reference_imports_torch_and_the_contract_only() -> None:
    allowed = {"torch", "__future__", "math", "typing", "collections"}
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}: a kernel's reference imports torch only"
        for path in sorted((ROOT / "kernels").glob("*/*reference.py"))
        for item in imports(path)
        # what several references share lies in kernels/, in references and in torch-free files of the contract
        if item.package not in allowed | {"kernels"}
    ]
    assert not found, "\n".join(found)


def test_serving_a_cpu_bundle_imports_no_torch() -> None:
    """No module but references and those of the GPU imports torch when it is imported itself."""
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports torch at its top: only references may, import it where it is used"
        for package in ("artifacts", "search_spaces", "kernels", "runtime")
        for path in modules(package)
        if "reference" not in path.stem and path.parent.name != "gpu" and path != ROOT / "kernels" / "interpreter.py"
        for item in imports(path)
        if item.package == "torch" and not (item.lazy or item.typing_only)
    ]
    assert not found, "\n".join(found)


def test_serving_a_gpu_bundle_imports_no_triton() -> None:
    """Triton is for kernels' sources, the interpreter and the compiler's worker."""
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports triton: only triton.py, the interpreter and the compiler's worker do"
        for package in MAY_IMPORT
        for path in modules(package)
        if path.name not in ("triton.py", "interpreter.py", "worker.py")
        for item in imports(path)
        if item.package == "triton"
    ]
    assert not found, "\n".join(found)


def test_the_rules_see_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "bad.py").write_text(
        "import optimizer.spec\n"
        "from optimizer import spec\n"
        "def f():\n    import optuna\n"
        "if TYPE_CHECKING:\n    from search_spaces.space import device\n"
        "from . import engine_core\nfrom runtime.engine_core import EngineCore\nimport kernels.spec\n"
    )
    assert [fault.split(" imports")[0] for fault in faults("runtime")] == [f"runtime/bad.py:{line}" for line in (1, 2, 4, 6)]


def test_package_initializers_only_re_export() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: an __init__.py holds a docstring, imports and __all__ only"
        for package in MAY_IMPORT
        for path in modules(package)
        if path.name == "__init__.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    ]
    assert not found, "\n".join(found)
