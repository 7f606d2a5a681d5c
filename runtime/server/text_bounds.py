"""How many bytes of text a number of tokens can stand for: what is longer is refused before it is encoded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from runtime.text_stream import BYTE_OF_CHAR

#: of pre-tokenizers: they cut a text and drop nothing of it, unless a split says "Removed"
_CUTS = frozenset({"ByteLevel", "Digits", "Metaspace", "Punctuation", "Sequence", "Split"})
#: Composing characters makes UTF-8 at most three times shorter (U+0390 from its parts).
_COMPOSED = 3
_MAX_BYTES_OF_CHARACTER = 4
_MAX_ESCAPE = 6  # \u0041 in JSON
_USUAL_BYTES_PER_TOKEN = 128
_MIN_BODY_BYTES, _MAX_BODY_BYTES = 2**20, 2**22


@dataclass(frozen=True)
class TextBound:
    """A token stands for at most `bytes_per_token` UTF-8 bytes of a text, those not counted that the vocabulary drops."""

    bytes_per_token: int
    dropped: bytes

    def min_num_tokens(self, text: str) -> int:
        """The fewest tokens that `text` can be: quick, however long it is."""
        counted = text.encode(errors="surrogatepass").translate(None, delete=self.dropped)
        return -(-len(counted) // self.bytes_per_token)


def text_bound(tokenizer: Tokenizer) -> TextBound | None:
    """None where a token may stand for any number of bytes: an unknown word, a token that eats spaces, dropped text."""
    cuts = list(_parts(tokenizer.pre_tokenizer))
    added = tokenizer.get_added_tokens_decoder().values()
    shrinks = [_shrinking(part) for part in _parts(tokenizer.normalizer)]
    falls_back = getattr(tokenizer.model, "byte_fallback", False) and all(
        tokenizer.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256)
    )
    if not falls_back and all(part["type"] != "ByteLevel" for part in cuts):
        return None
    if any(part["type"] not in _CUTS or part.get("behavior") == "Removed" for part in cuts):
        return None
    if None in shrinks or any(token.lstrip or token.rstrip for token in added):
        return None
    own = max(map(len, tokenizer.get_vocab(with_added_tokens=False)), default=0)
    # A character of a byte-level piece is one byte.
    own_bytes = own * (_MAX_BYTES_OF_CHARACTER if falls_back else 1)
    longest = max([1, own_bytes, *(len(token.content.encode()) for token in added)])
    dropped = () if falls_back else (b for char, b in BYTE_OF_CHAR.items() if tokenizer.token_to_id(char) is None)
    return TextBound(longest * max([1, *filter(None, shrinks)]), bytes(dropped))


def largest_body(bound: TextBound | None, max_model_len: int) -> int:
    """The largest body to read: a prompt of the longest tokens with each character escaped; within 1 MiB and 4 MiB."""
    bytes_per_token = _USUAL_BYTES_PER_TOKEN if bound is None else bound.bytes_per_token
    return min(max(_MAX_ESCAPE * bytes_per_token * max_model_len, _MIN_BODY_BYTES), _MAX_BODY_BYTES)


def _shrinking(normalizer: dict[str, Any]) -> int | None:
    """How many times shorter a normalizer can make a text; None if there is no end to it."""
    match normalizer["type"]:
        case "NFC" | "NFD":
            return _COMPOSED
        case "Sequence" | "Prepend":
            return 1
        case "Replace" if normalizer["pattern"] == {"String": " "} and normalizer["content"] == "\u2581":
            return 1
    return None


def _parts(component: Any) -> Iterator[dict[str, Any]]:
    """The JSON of a tokenizer's component and of those that it is a sequence of."""
    if component is not None:
        yield from _flattened(json.loads(component.__getstate__()))


def _flattened(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield part
    for inner in part.get("pretokenizers", part.get("normalizers", ())):
        yield from _flattened(inner)
