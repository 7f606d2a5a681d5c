"""The tokens of a GGUF file and their types, as llama.cpp corrects them (src/llama-vocab.cpp)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gguf.constants import TokenType

from optimizer.importers.errors import DamagedFile, MissingTokenizer

#: what text never splits: it is taken out of a text as it was written, before spaces are replaced
ADDED_TYPES = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)

#: What ends a turn or a text is a control token under any type: converters wrote many as ordinary ones.
_ENDS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> <EOT> "
    "_<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> [e~[ "
    "<\uff5cend\u2581of\u2581sentence\uff5c>"
)
#: So is each of these, where none of the keys (under tokenizer.ggml, without _token_id) says which token has the role.
_INFILLS = {
    ("fim_pre", "prefix"): "<|fim_prefix|> <fim-prefix> <fim_prefix> <PRE> \u2581<PRE> <|code_prefix|> <|prefix|> "
    "<\uff5cfim\u2581begin\uff5c>",
    ("fim_suf", "suffix"): "<|fim_suffix|> <fim-suffix> <fim_suffix> <SUF> \u2581<SUF> <|code_suffix|> <|suffix|> "
    "<\uff5cfim\u2581hole\uff5c>",
    ("fim_mid", "middle"): "<|fim_middle|> <fim-middle> <fim_middle> <MID> \u2581<MID> <|code_middle|> <|middle|> "
    "<\uff5cfim\u2581end\uff5c>",
    ("fim_pad",): "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    ("fim_rep",): "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    ("fim_sep",): "<|file_sep|>",
}
#: what a reader must see of a harmony answer
_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
#: beside any of these sets, `<|end|>` ends a part of an answer, not the answer
_PARTS = ({"<|return|>", "<|call|>"}, {"<|return|>", "<|calls|>"}, {"<|flush|>", "<|call|>"}, {"<|flush|>", "<|calls|>"})
_KINDS = {int(kind): kind for kind in TokenType}


@dataclass(frozen=True)
class GgufTokens:
    """`texts` and `types` by token id; `notes` says, for the user, which types are not the file's."""

    texts: list[str]
    types: list[TokenType]
    notes: list[str]

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> GgufTokens:
        """MissingTokenizer where `metadata` holds no tokens, DamagedFile where two are the same or have no type."""
        if "tokenizer.ggml.tokens" not in metadata:
            raise MissingTokenizer("the GGUF file holds no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens)")
        texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(metadata["tokenizer.ggml.tokens"])]
        ids = {text: i for i, text in enumerate(texts)}
        if len(ids) < len(texts):
            first, last = next((i, ids[text]) for i, text in enumerate(texts) if ids[text] != i)
            raise DamagedFile(f"tokenizer.ggml.tokens must differ, but {first} and {last} are both {texts[first]!r}")
        for name in ("token_type", "scores"):
            listed = metadata.get(f"tokenizer.ggml.{name}", texts)
            if len(listed) != len(texts):
                raise DamagedFile(f"tokenizer.ggml.{name} must have an entry per token, {len(texts)}, got {len(listed)}")
        # What llama.cpp does not know is a token without a meaning of its own.
        stated = [_KINDS.get(kind, TokenType.NORMAL) for kind in metadata.get("tokenizer.ggml.token_type", [1] * len(texts))]
        corrected = _corrected(ids.keys(), metadata)
        types = [corrected.get(text, kind) for text, kind in zip(texts, stated, strict=True)]
        changes: dict[tuple[TokenType, TokenType], list[str]] = {}
        for text, before, after in zip(texts, stated, types, strict=True):
            if before != after:
                changes.setdefault((before, after), []).append(text)
        notes = [
            f"{_listed(changed)} typed {before.name} in the file, but {after.name} by name, as llama.cpp has it"
            for (before, after), changed in changes.items()
        ]
        return cls(texts, types, notes)


def _corrected(texts: Collection[str], metadata: Mapping[str, Any]) -> dict[str, TokenType]:
    """What tokens are by their name, whatever the file says."""
    infills = (
        names for keys, names in _INFILLS.items() if not any(f"tokenizer.ggml.{key}_token_id" in metadata for key in keys)
    )
    corrected = dict.fromkeys(" ".join((_ENDS, *infills)).split(), TokenType.CONTROL)
    if "<|tool_response>" in texts:
        corrected["</s>"] = TokenType.NORMAL
    parts = ("<|end|>",) if any(names <= set(texts) for names in _PARTS) else ()
    return corrected | dict.fromkeys((*_SHOWN, *parts), TokenType.USER_DEFINED)


def _listed(texts: list[str]) -> str:
    shown = ", ".join(texts[:3])
    return f"{shown} and {len(texts) - 3} more are" if len(texts) > 3 else f"{shown} {'is' if len(texts) == 1 else 'are'}"
