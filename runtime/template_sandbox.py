"""The Jinja in which chat templates run: what transformers gives them, in a sandbox, within limits of work and size. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, generate_lorem_ipsum
from jinja2.visitor import NodeTransformer

#: turns of loops that one rendering may take: far more than chats need, and done in seconds
MAX_STEPS = 1_000_000
#: what a call of a function counts as
_CALL_STEPS = 5
#: characters of a text, and of all that one rendering writes
MAX_SIZE = 1 << 24
_MAX_BITS = 1 << 16


@dataclass
class _Budget:
    """What a rendering may still do."""

    steps: int
    size: int = MAX_SIZE


#: of the rendering that is under way; none while a template is compiled
_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates. A rendering that goes beyond a limit, or leaves the sandbox, raises SecurityError.

    Filters, functions, tags and their defaults are those of transformers 5.23.
    """

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self) -> None:
        extensions = [_GenerationBlock, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_written)
        self.code_generator_class = _LimitedCode
        self.filters |= {"tojson": _to_json, _COUNTED: _counted, _SIZED: _sized}
        self.globals |= {
            "dict": _Dict(),
            "lipsum": _lorem_ipsum,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def render(self, template: jinja2.Template, variables: dict[str, Any], max_steps: int = MAX_STEPS) -> str:
        """The text of `template`. Raises whatever a template may, RecursionError included."""
        token = _budget.set(_Budget(max_steps))
        try:
            return template.render(variables)
        finally:
            _budget.reset(token)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _take_steps(_CALL_STEPS)
        if isinstance(obj, LoopContext):  # a loop that is entered anew, with other items
            args = tuple(_counted(items) for items in args)
        return _sized(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _is_too_large(operator, left, right):
            _refuse_size()
        return super().call_binop(context, operator, left, right)


def mentioned(source: str, environment: TemplateEnvironment) -> frozenset[str]:
    """The names of fields, and the strings, that the template `source` holds."""
    tree = environment.parse(source)
    fields = {node.attr for node in tree.find_all(nodes.Getattr)}
    return frozenset(fields | {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)})


def _take_steps(count: int) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.steps -= count
        if budget.steps < 0:
            raise SecurityError("it takes more turns of loops, and calls, than any chat needs")


def _written(value: object) -> object:
    """`value`, which a template writes: to the prompt, or to a text of its own."""
    budget = _budget.get()
    if budget is not None and isinstance(value, str):
        budget.size -= len(value)
        if budget.size < 0:
            _refuse_size()
    return value


def _refuse_size() -> NoReturn:
    raise SecurityError(f"it makes a text or list longer than {MAX_SIZE:,}, or a number as large")


def _counted(items: Iterable[object]) -> Iterator[object]:
    for item in items:
        _take_steps(1)
        yield item


def _sized(value: object) -> object:
    return value if _length(value) <= MAX_SIZE else _refuse_size()


def _is_too_large(operator: str, left: object, right: object) -> bool:
    """Whether the result would be, as far as that can be told before it is computed."""
    if isinstance(left, int) and isinstance(right, int):
        return (left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()) > _MAX_BITS
    if operator == "*":
        times, repeated = (left, right) if isinstance(left, int) else (right, left)
        return isinstance(times, int) and _length(repeated) * times > MAX_SIZE
    return _length(left) + _length(right) > MAX_SIZE


def _length(value: object) -> int:
    """Of a text in characters; an item of a list takes the room of eight."""
    return len(value) if isinstance(value, str) else 8 * len(value) if isinstance(value, list | tuple) else 0


#: filters of names that no template can write
_COUNTED, _SIZED = " counted", " sized"


class _LimitedCode(CodeGenerator):
    """Compiles loops, filters and `~` with their limits."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        super().visit_Template(_Limiting().visit(node), frame)


class _Limiting(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _SIZED)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _SIZED)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's tokens for training; to a server it is its content."""

    tags = {"generation"}  # noqa: RUF012 -- jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Macro) -> str:
        return str(caller())


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter: no HTML escapes, which are noise to a language model."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _lorem_ipsum(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> str:
    if n * max > MAX_STEPS:
        _refuse_size()
    return generate_lorem_ipsum(n, html, min, max)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _Dict:
    """`dict` without what else Python's type has."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """`namespace`, whose attributes must not begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a template may name an attribute `self`
        self, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"attributes of a namespace must not begin with an underscore, got {name!r}")
