"""What names of layer groups say: `layers.3.qkv`, `embed`."""

from __future__ import annotations

#: before the kind of a layer group of `rare_experts`
RARE = "rare_"


def kind_of(group: str) -> str:
    """The kind of a layer group: `layers.3.qkv` -> `qkv`; `embed` and `head` are kinds of their own."""
    return group.rsplit(".", 1)[-1]


def is_table(group: str) -> bool:
    """Whether rows of a layer group are looked up; a tied head multiplies with one, too."""
    return group in ("embed", "embed_per_layer")


def plain_group(group: str) -> str:
    """The layer group, or kind of one, that is the same of the other experts, if `group` is of `rare_experts`; else `group`."""
    layer, dot, kind = group.rpartition(".")
    return f"{layer}{dot}{kind.removeprefix(RARE)}"


def is_of_experts(group: str) -> bool:
    """Whether a layer group is of experts that tokens are routed to: the rows of one stand after those of another."""
    return kind_of(plain_group(group)).startswith("experts")
