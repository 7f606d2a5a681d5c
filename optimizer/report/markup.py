"""Elements of HTML and SVG as escaped strings."""

from __future__ import annotations

from markupsafe import Markup, escape


def element(tag: str, *children: str, **attributes: str | int | float | None) -> Markup:
    """`<tag ...>children</tag>`; text is escaped, Markup is not.

    An attribute that is None is left out, `_` in a name becomes `-`, a leading `_` is dropped (`_class`), and floats are
    cut to two decimals.
    """
    written = "".join(
        f' {name.removeprefix("_").replace("_", "-")}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{written}>{''.join(escape(child) for child in children)}</{tag}>")


def percent(fraction: float) -> str:
    """A fraction as a CSS or SVG length."""
    return f"{_text(100 * fraction)}%"


def _text(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
