"""The words and sizes that docs and code agree on."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path

from runtime.models import FAMILIES

ROOT = Path(__file__).parents[2]
FOLDERS = ("artifacts", "search_spaces", "kernels", "runtime", "optimizer", "tests", "benchmarks", "examples")
SHIPPED = FOLDERS[:5]
MAX_LINES = 350
MAX_FAMILY_LINES = 80
#: longer ones, and why
LONGER = {
    "kernels/cpu/vec.h": "one set of vector types for each instruction set",
    "kernels/quant_matmul/triton.py": "one kernel over int8 and int4 is one file",
    "kernels/paged_attention/triton.py": "one online softmax for decode and prefill is one file",
    "kernels/scaled_matmul/triton.py": "one kernel for all dtypes and one for 4-bit floats share their parts",
}
VAGUE = {"util", "utils", "helper", "helpers", "misc", "common"}

#: `page` is the operating system's word and the browser's; a piece of the KV cache is a block.
#: (paged attention is the method's name.)
PAGE = re.compile(
    r"(?:^|_)(?:page|pages)_?(?:size|table|tables|id|ids|index|indices|idx)(?:_|$)|^(?:num|free|kv|cache)_pages?(?:_|$)"
)


def sources(*folders: str) -> list[Path]:
    suffixes = {".py", ".cpp", ".h"}
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def words(path: Path) -> set[str]:
    return set(re.split(r"[_.]", path.stem.lower()))


def test_no_file_has_a_vague_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}: name the concept that it holds"
        for path in sources(*FOLDERS)
        if (words(path) | {part.lower() for part in path.relative_to(ROOT).parts[:-1]}) & VAGUE
    ]
    assert not found, "\n".join(found)


def test_no_function_or_class_has_a_vague_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: say what it does"
        for path in sources(*SHIPPED)
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and set(node.name.lower().split("_")) & VAGUE
    ]
    assert not found, "\n".join(found)


def test_a_file_can_be_read_at_a_sitting() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*FOLDERS)}
    found = [
        f"{path.relative_to(ROOT)}: {length} lines, at most {MAX_LINES}; split it by concept"
        for path, length in lengths.items()
        if length > MAX_LINES and str(path.relative_to(ROOT)) not in LONGER
    ]
    assert not found, "\n".join(found)
    assert all(MAX_LINES < lengths[ROOT / name] <= 450 for name in LONGER), "a file that is short enough needs no reason"


def test_a_family_is_a_short_file() -> None:
    """What is longer is a feature, which belongs where all families find it."""
    for family in FAMILIES.values():
        length = len(Path(inspect.getfile(family)).read_text(encoding="utf-8").splitlines())
        assert length <= MAX_FAMILY_LINES, f"{family.__module__}: {length} lines"


def test_a_piece_of_the_kv_cache_is_a_block() -> None:
    """No identifier says page_size, page_table, num_pages and the like."""
    found = [
        f"{path.relative_to(ROOT)}:{token.start[0]} {token.string}: the word is block"
        for path in sources(*SHIPPED)
        if path.suffix == ".py"
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and PAGE.search(token.string)
    ]
    assert not found, "\n".join(found)


def test_the_page_rule_tells_the_two_apart() -> None:
    assert all(PAGE.search(name) for name in ("page_size", "page_table", "num_pages", "free_pages", "kv_page_ids"))
    assert not any(PAGE.search(name) for name in ("paged_attention", "page", "page_html", "report_page", "homepage"))
