"""Names of the Hugging Face hub where a path is wanted: they are not fetched, and the user is told how to get the folder."""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
#: `owner/name`, maybe with a revision or a file's kind behind it, or a URL; a URL's slashes may have become one
_HUB_NAME = re.compile(rf"(?:https?:/+(?:www\.)?huggingface\.co/|hf:/+)({_NAME})(?:[@:/].*)?|({_NAME})(?:[@:][^/]*)?")


def advice_on(source: str) -> str:
    """How to get the model that `source`, which is not a path here, may name on the hub; empty if it cannot be such a name."""
    match = _HUB_NAME.fullmatch(source)
    if match is None:
        return ""
    name = match[1] or match[2]
    folder = f"models/{name.rpartition('/')[2]}"
    return (
        f"; models of the Hugging Face hub are not fetched: if {name} is one, `hf download {name} --local-dir {folder}` "
        f"(pip install huggingface_hub) makes the folder, and source is then its path, {folder}"
    )
