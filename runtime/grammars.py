"""Grammars made ready for a vocabulary: compiled once, by llguidance, within limits on size and work (decision 0042)."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runtime.grammar import Grammar
from runtime.logits.grammar_mask import GrammarMask
from runtime.reasoning import Reasoning
from runtime.request import RequestError
from runtime.text_stream import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_MAX_LARK_BYTES = 128 * 1024
_MAX_CACHED = 64
_MAX_CACHED_BYTES = 1024 * 1024
#: of one grammar's lexer, one to two kB each; llguidance's own limit is five times that, its others are kept
_MAX_LEXER_STATES = 50_000
_PLACE = re.compile(r"^(at )?\d+\(\d+\): |failed to compile JSON schema: ")
_EXCERPT = re.compile(r"\d+ \||\^|<")


class CompiledGrammar:
    """A `Constraint` that any number of sequences share: each gets a copy of a matcher that has seen nothing."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def processor(self, reasoning: Reasoning | None) -> GrammarMask:
        return GrammarMask(self._matcher.deep_copy(), self._vocab_size, reasoning)


class Grammars:
    """Compiles grammars for one vocabulary. Keeps the last ones. Any thread may call it.

    `vocab_size` is that of the logits. The tokens at which texts end are allowed where a grammar is complete, all of them.
    """

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, end_token_ids: Iterable[int]) -> None:
        self._vocabulary = vocabulary
        self._vocab_size = vocab_size
        self._end_token_ids = sorted(end_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._num_bytes = 0

    def get_ready(self) -> None:
        """Read the vocabulary: 0.3 s of CPU for 50,000 tokens, in half of which no other thread runs. Twice does no harm."""
        if self._end_token_ids:
            self._ready()

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """RequestError, of the grammar's field, for one that is not valid, allows no text or is too large.

        Most take about a millisecond, and what is refused for its size at most a second.
        """
        if not self._end_token_ids:
            raise _refused(grammar, "needs a model with a token that ends texts, and this one names none")
        num_bytes = len(grammar.lark.encode(errors="surrogatepass"))
        if num_bytes > _MAX_LARK_BYTES:
            raise _refused(grammar, f"may have at most {_MAX_LARK_BYTES} bytes as a grammar, got {num_bytes}; make it smaller")
        with self._lock:
            if grammar.lark in self._compiled:
                self._compiled.move_to_end(grammar.lark)
                return self._compiled[grammar.lark]
        compiled = CompiledGrammar(self._matcher(grammar), self._vocab_size)
        with self._lock:
            if grammar.lark not in self._compiled:
                self._compiled[grammar.lark] = compiled
                self._num_bytes += num_bytes
            while len(self._compiled) > _MAX_CACHED or self._num_bytes > _MAX_CACHED_BYTES:
                oldest, _ = self._compiled.popitem(last=False)
                self._num_bytes -= len(oldest.encode(errors="surrogatepass"))
        return compiled

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._ready(), grammar.lark, log_level=0, limits=limits)
        # A grammar without an end shows only when the first token is asked for.
        probe = matcher.deep_copy()
        if not matcher.is_error():
            probe.compute_bitmask()
        if probe.is_error():
            raise _refused(grammar, f"cannot be followed: {_reason(probe.get_error())}; correct it, or make it simpler")
        return matcher

    def _ready(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._vocabulary, self._vocab_size, self._end_token_ids)
            return self._tokenizer


def _tokenizer(vocabulary: Vocabulary, vocab_size: int, end_token_ids: list[int]) -> LLTokenizer:
    from llguidance import LLTokenizer

    wrapper: Any = _Tokens(vocabulary, vocab_size, end_token_ids)
    return LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=end_token_ids)


class _Tokens:
    """What LLTokenizer asks of a tokenizer. A text that has to come next is allowed by the tokens that this writes it with."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, end_token_ids: list[int]) -> None:
        self.eos_token_id = end_token_ids[0]
        self.tokens = [vocabulary.token_bytes(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = sorted(vocabulary.special_tokens.values())
        self._tokenizer = vocabulary.tokenizer
        special = frozenset(self.special_token_ids)
        self._ids = {token: id for id, token in reversed([*enumerate(self.tokens)]) if token and id not in special}
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokenizer's own tokens; the longest that fit where those say something else, such as a space in front."""
        wanted = text.encode() if isinstance(text, str) else text
        (encoding,) = self._tokenizer.encode_batch_fast([wanted.decode(errors="replace")], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids if b"".join(self.tokens[id] for id in ids) == wanted else self._longest_first(wanted)

    def _longest_first(self, wanted: bytes) -> list[int]:
        ids, start = [], 0
        while start < len(wanted):
            ends = range(min(len(wanted), start + self._longest), start, -1)
            end = next((end for end in ends if wanted[start:end] in self._ids), None)
            if end is None:
                break  # llguidance goes on by itself
            ids.append(self._ids[wanted[start:end]])
            start = end
        return ids


def lark_of(text: str, field: str) -> Grammar:
    """The grammar that a client wrote, in Lark or in llama.cpp's GBNF. RequestError if it cannot be read."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return Grammar(any_to_lark(text), field)
    except Exception as error:  # the converter raises what it likes
        raise RequestError(f"{field} must be a grammar in Lark or GBNF: {str(error)[:200]}; correct it", field) from error


def _refused(grammar: Grammar, rule: str) -> RequestError:
    return RequestError(f"{grammar.field or 'the grammar'} {rule}", grammar.field)


def _reason(message: str) -> str:
    """What llguidance says is wrong, without the excerpts and places that it shows of texts that it was given."""
    if "NoExtension" in message:
        return "it has no text that ends"
    if "oneOf constraints" in message:
        return "oneOf is supported only where no value can fit two of its alternatives, and anyOf always"
    lines = (_PLACE.sub("", line.strip()) for line in message.splitlines())
    kept = [line for line in lines if line and not _EXCERPT.match(line)]
    return " ".join(kept)[:300]
