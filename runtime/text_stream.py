"""Text from tokens as they come: incremental detokenization and stop strings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
_NUM_CONTEXT_TOKENS = 32


class Vocabulary:
    """What detokenization asks of a tokenizer, worked out once: which ids are special, which are single bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        decoder = b"" if tokenizer.decoder is None else tokenizer.decoder.__getstate__()
        self._special = {t.content: i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
        self._special_ids = frozenset(self._special.values())
        self._is_byte_level = b'"ByteLevel"' in decoder
        self._space = "\u2581" if "\u2581".encode() in decoder else " "
        self._bytes_by_id: dict[int, bytes] = {}
        if b'"ByteFallback"' in decoder:
            for byte in range(256):
                token_id = tokenizer.token_to_id(f"<0x{byte:02X}>")
                if token_id is not None:
                    self._bytes_by_id[token_id] = bytes([byte])

    def visible(self, token_ids: Iterable[int], skip_special_tokens: bool, kept: frozenset[int] = frozenset()) -> list[int]:
        """The ids that decode to text: those in the vocabulary, without special ones but `kept` if these are skipped."""
        return [token_id for token_id in token_ids if self._is_visible(token_id, skip_special_tokens, kept)]

    def last_visible(
        self, token_ids: Sequence[int], skip_special_tokens: bool, count: int, kept: frozenset[int] = frozenset()
    ) -> list[int]:
        """The last `count` of `visible`, without looking at the others."""
        backwards = (token_id for token_id in reversed(token_ids) if self._is_visible(token_id, skip_special_tokens, kept))
        return list(islice(backwards, count))[::-1]

    def _is_visible(self, token_id: int, skip_special_tokens: bool, kept: frozenset[int]) -> bool:
        is_skipped = skip_special_tokens and token_id in self._special_ids and token_id not in kept
        return not is_skipped and self.tokenizer.id_to_token(token_id) is not None

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of special tokens by their texts."""
        return self._special

    def special_ids(self, texts: Iterable[str]) -> frozenset[int]:
        """The special tokens among `texts`: as stops they end a text by their ids, because they need not appear in it."""
        return frozenset(self._special[text] for text in texts if text in self._special)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`, special tokens included."""
        # Unlike `decode` this lets other threads run meanwhile.
        (text,) = self.tokenizer.decode_batch([token_ids], skip_special_tokens=False)
        return str(text)

    def num_trailing_bytes(self, token_ids: Sequence[int]) -> int:
        """Length of the run of byte-fallback tokens at the end: their text is open until another kind of token follows."""
        count = 0
        while count < len(token_ids) and token_ids[-1 - count] in self._bytes_by_id:
            count += 1
        return count

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that one token stands for, possibly a part of a character; empty for an unknown id."""
        piece = self.tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        if token_id in self._bytes_by_id:
            return self._bytes_by_id[token_id]
        if self._is_byte_level and token_id not in self._special_ids and all(c in BYTE_OF_CHAR for c in piece):
            return bytes(BYTE_OF_CHAR[c] for c in piece)
        return str(piece).replace(self._space, " ").encode()

    def token_text(self, token_id: int) -> str:
        """One token as text of its own, leading space kept; parts of characters show as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")


class TextStream:
    """Text of a growing token sequence, in deltas.

    The deltas and the final `flush` concatenate to what `context + tokens` decodes to, beyond what `context` alone decodes
    to. A character is given out once it is whole: nothing that a later token could still change leaves the stream. `context`
    (the prompt) matters to decoders that drop the space at the very start of a text. Special tokens among `markers` are text
    even where others are skipped.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        context: Sequence[int] = (),
        skip_special_tokens: bool = True,
        markers: Iterable[str] = (),
    ) -> None:
        self._vocabulary = vocabulary
        self._skip_special_tokens = skip_special_tokens
        self._kept = vocabulary.special_ids(markers)
        self._window = vocabulary.last_visible(context, skip_special_tokens, _NUM_CONTEXT_TOKENS, self._kept)
        self._given = vocabulary.decode(self._window)  # the window's text that has left, or belongs to the context

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that became certain with these tokens; often empty."""
        self._window += self._vocabulary.visible(token_ids, self._skip_special_tokens, self._kept)
        num_open = self._vocabulary.num_trailing_bytes(self._window)
        text = self._vocabulary.decode(self._window[: len(self._window) - num_open])
        settled = text.removesuffix(REPLACEMENT)  # a byte-level decoder shows an unfinished character as one of these
        delta = self._give(settled)
        if delta and not num_open and settled == text and len(self._window) > 2 * _NUM_CONTEXT_TOKENS:
            # Text before a settled end cannot change; decoding a bounded window keeps the cost of a token constant.
            self._window = self._window[-_NUM_CONTEXT_TOKENS:]
            self._given = self._vocabulary.decode(self._window)
        return delta

    def flush(self) -> str:
        """What is left when no more tokens come: unfinished characters become U+FFFD."""
        return self._give(self._vocabulary.decode(self._window))

    def _give(self, text: str) -> str:
        delta = text[_num_shared(self._given, text) :]
        if delta:
            self._given = text
        return delta


class StopStrings:
    """Cuts a text at the first stop string that is completed in it, however the text is cut into pieces.

    Text that may be the beginning of a stop string is held back until that is decided. If two are completed by one
    character, the longer one counts. Raises ValueError on an empty stop string.
    """

    def __init__(self, stops: Sequence[str], include_in_output: bool = False) -> None:
        if not all(stops):
            raise ValueError("stop strings must not be empty, got ''")
        self._stops = tuple(stops)
        self._include_in_output = include_in_output
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that may leave now. Once `matched` is set, the text has ended."""
        assert self.matched is None
        text = self._held + text
        found = [(text.index(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, _, self.matched = min(found)
            self._held = ""
            return text[: end if self._include_in_output else end - len(self.matched)]
        num_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _num_shared(a: str, b: str) -> int:
    """Length of the beginning that `a` and `b` share."""
    if b.startswith(a):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` that `text` ends with."""
    return next(n for n in range(min(len(stop) - 1, len(text)), -1, -1) if text.endswith(stop[:n]))


def _bytes_of_chars() -> dict[str, int]:
    """Byte-level BPE writes printable Latin-1 bytes as themselves and the others as characters from U+0100 on (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHAR = _bytes_of_chars()
