"""How text is split by each `tokenizer.ggml.pre`: against the `regex` package, and between the names of one split.

The patterns are llama.cpp's own (src/llama-vocab.cpp as llama-cpp-python 0.3.36 has it), which spell categories out where its
regular expressions have none; what is in the product are mostly those of the models' tokenizer.json.
"""

from __future__ import annotations

import re

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from optimizer.exporters.gguf_vocabulary import _PROBE
from optimizer.importers import UnsupportedTokenizer
from optimizer.importers.gguf_splits import REFUSED_SPLITS, SPLITS, named_split
from optimizer.importers.gguf_tokenizer import REFUSED_KINDS
from tests.house.test_words import ROOT
from tests.importers.test_gguf_tokenizer import CORPUS, TEXTS

#: names -> what llama.cpp's own names of them are
SAME: dict[str, str] = {
    "gpt-2": "phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code "
    "roberta-bpe mpt olmo jais trillion granite-docling exaone4",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    # https://github.com/ggml-org/llama.cpp/issues/11341
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 megrez",
    "stablelm2": "hunyuan solar-open grok-2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    "dbrx": "smaug-bpe chatglm-bpe",
    "glm4": "glm5",
    "deepseek-v3": "hunyuan-dense joyai-llm hy_v4",
    # https://github.com/ggml-org/llama.cpp/issues/12122
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
    "tiny_aya": "cohere2moe",
    "bailingmoe": "bailingmoe2 llada-moe",
    "bloom": "poro-chat gpt3-finnish",
}

CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CASED = (
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+SUFFIX|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+"
    r"((?=[\p{L}])([^A-Z]))*SUFFIX|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|""" + SPACES
)
HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
PATTERNS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "qwen2": (QWEN2,),
    "stablelm2": (QWEN2,),
    "bailingmoe": (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|"
        r"\s+(?!\S)|\s+",
    ),
    "qwen35": (QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+"),),
    "llama-bpe": (LLAMA3,),
    "dbrx": (LLAMA3,),
    "minicpm5": (r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")),
    "deepseek-v3": (r"\p{N}{1,3}", HAN, DEEPSEEK3),
    "spark2_5": (
        r"\p{N}{1,3}",
        HAN,
        DEEPSEEK3.replace(r"\s*[\r\n]+", r"[\r\n]").replace(r"[\p{P}\p{S}]+[\r\n]*", r"[\p{P}\p{S}]+"),
        r"\p{N}",
    ),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    "bloom": (" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",),
    "viking": (" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+", r"\p{N}"),
    "seed-coder": (QWEN2.replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+"),),
    "ufakzeka": (QWEN2.replace(f"{CONTRACTIONS}|", ""),),
    "laguna": (r"[^\n]+|[\n]+", QWEN2),
    "exaone-moe": (
        CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|"
        r"\s+(?!\S)|\s+",
    ),
    "superbpe": (r"\p{N}+", r"(?=([0-9]{3})+(?![0-9]))"),
    "jais-2": (
        LLAMA3.removesuffix(r"\s+(?!\S)|\s+") + r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|"
        r"\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
    ),
    "chameleon": (
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        GPT2,
    ),
}
#: of these, llama.cpp's patterns take letters that are not ASCII for both cases
ASCII: dict[str, tuple[str, ...]] = {
    "tekken": (CASED.replace("SUFFIX", "").replace("DIGITS", r"\p{N}"),),
    "gpt-4o": (CASED.replace("SUFFIX", f"{CONTRACTIONS}?").replace("DIGITS", r"\p{N}{1,3}"),),
    "granite-embed-multi-97m": (CASED.replace("SUFFIX", f"{CONTRACTIONS}?").replace("DIGITS", r"\p{N}{1,3}"),),
    "tiny_aya": (
        r"[0-9]{1,3}(?=(?:[0-9]{3})*\b)",
        CASED.replace("SUFFIX", f"{CONTRACTIONS}?").replace("DIGITS", r"\p{N}{1,3}"),
    ),
    "youtu": (HAN, CASED.replace("SUFFIX", f"{CONTRACTIONS}?").replace("DIGITS", r"\p{N}")),
    "kimi-k2": (CASED.replace("SUFFIX", f"{CONTRACTIONS}?").replace("DIGITS", r"\p{N}{1,3}").replace(r"[\r\n/]*", r"[\r\n]*"),),
    "deepseek-llm": (r"[\r\n]", r"\s?[A-Za-z]+", r"\s?[!-/:-~]+", r"\s+$", r"\p{N}+"),
}
WRITING = "aZéÉ\u0301ßж中の한5٣½ \u00a0\t\n\r'sStTlL.,!?/|`$+<=>^~_-(){}😀\u3002\uff0c"


def expected(text: str, patterns: tuple[str, ...]) -> list[str]:
    """Each pattern splits what those before it left into matches and what is between; then bytes, as GPT-2 writes them."""
    parts = [text]
    for pattern in patterns:
        split: list[str] = []
        for part in parts:
            end = 0
            for match in regex.finditer(pattern, part):
                split += [part[end : match.start()], match[0]]
                end = match.end()
            split.append(part[end:])
        parts = [part for part in split if part]
    letters = dict(zip(range(256), _byte_letters(), strict=True))
    return ["".join(letters[byte] for byte in part.encode()) for part in parts]


def _byte_letters() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def words(pre: str, text: str) -> list[str]:
    return [word for word, _ in SPLITTERS[pre].pre_tokenize_str(text)]


SPLITTERS = {name: named_split(name).pre_tokenizer() for name in (*PATTERNS, *ASCII, "afmoe")}


@pytest.mark.parametrize("pre", PATTERNS)
@settings(max_examples=40)
@given(text=st.text(alphabet=WRITING, max_size=30))
def test_any_text_is_split_as_the_patterns_say(pre: str, text: str) -> None:
    assert words(pre, text) == expected(text, PATTERNS[pre])


@pytest.mark.parametrize("pre", ASCII)
@settings(max_examples=40)
@given(text=st.text(alphabet="".join(c for c in WRITING if c.isascii()) + "bcABC19", max_size=30))
def test_ascii_is_split_as_the_patterns_say(pre: str, text: str) -> None:
    assert words(pre, text) == expected(text, ASCII[pre])


@pytest.mark.parametrize("pre", [*PATTERNS, *ASCII])
def test_prose_and_code_are_split_as_the_patterns_say(pre: str) -> None:
    texts = [*TEXTS, *CORPUS[:3]]
    for text in texts if pre in PATTERNS else filter(str.isascii, texts):
        assert words(pre, text) == expected(text, (PATTERNS | ASCII)[pre])


@pytest.mark.parametrize(
    ("pre", "text", "parts"),
    [
        # letters of other scripts have cases too, where llama.cpp has both
        ("tekken", "ÉcoleÀ la", ["École", "À", " la"]),
        ("gpt-4o", "ÉcoleÀ l'ÉTÉ's", ["École", "À", " l", "'ÉTÉ's"]),
        ("kimi-k2", "ab中文Cd々e", ["ab", "中文", "Cd", "々", "e"]),
        ("youtu", "가나abc\uff0cdef", ["가나", "abc", "\uff0c", "def"]),
        # what is meant for punctuation, from : to ~, has ASCII's letters
        ("deepseek-llm", "ÉcoleÀ ÀÉ \uff01中\uff21b  ", ["É", "cole", "À", " ÀÉ", " \uff01", "中", "\uff21b", "  "]),
        ("superbpe", "x1234567y", ["x", "1", "234", "567", "y"]),
        # digits by threes from the right, of any script
        ("afmoe", "x12345 67٣٤中文", ["x", "12", "345", " ", "6", "7٣٤", "中文"]),
    ],
)
def test_parts(pre: str, text: str, parts: list[str]) -> None:
    letters = _byte_letters()
    assert words(pre, text) == ["".join(letters[byte] for byte in part.encode()) for part in parts]


def test_the_letters_of_deepseek_llm_are_cased_ones() -> None:
    """Those that Unicode had when the model was made: none beyond the categories, and all of the older blocks."""
    (pattern,) = (p for p in named_split("deepseek-llm").patterns if "A-Za-z" in p)
    letters = regex.compile(re.sub(r"\\x\{(\w+)\}", lambda m: f"\\U{int(m[1], 16):08x}", pattern.removeprefix(r"\s?")))
    cased = regex.compile(r"[\p{Lu}\p{Ll}\p{Lt}]")
    every = [chr(c) for c in range(0x20, 0x1F000) if not 0xD800 <= c < 0xE000]
    assert [c for c in every if letters.fullmatch(c) and not cased.fullmatch(c)] == ["\u0295"]  # which was one
    assert not [c for c in every if c < "\u0530" and cased.fullmatch(c) and not letters.fullmatch(c)]


@pytest.mark.parametrize("pre", SAME)
def test_names_that_only_rename(pre: str) -> None:
    for other in SAME[pre].split():
        assert named_split(other).patterns == named_split(pre).patterns, other
        if pre not in ("qwen2", "stablelm2", "bailingmoe"):
            assert named_split(other) is named_split(pre), other


@pytest.mark.parametrize("pre", ["gemma4", "sarvam-moe", "whitespace", "llama4-vision", ""])
def test_what_no_split_can_say_is_refused_by_name(pre: str) -> None:
    with pytest.raises(UnsupportedTokenizer, match=rf"got {pre!r}.*; take the model's Hugging Face folder"):
        named_split(pre)


def test_digits_of_afmoe_are_counted_as_llama_cpp_counts_them() -> None:
    for length in range(1, 13):
        digits = "1234567890123"[:length]
        first = length % 3 or 3
        assert words("afmoe", digits) == [digits[:first], *(digits[i : i + 3] for i in range(first, length, 3))]


def test_the_documentation_lists_what_is_refused() -> None:
    """With the reasons that the errors give."""
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `tokenizer.ggml.(\w+)` (.*) \| (.*) \|$", text)
    listed = {(key, name, reason) for key, names, reason in rows for name in re.findall("`([^`]+)`", names)}
    stated = {"pre": REFUSED_SPLITS, "model": REFUSED_KINDS}
    assert listed == {(key, name, reason) for key, refused in stated.items() for name, reason in refused.items()}


def test_the_probe_of_exports_tells_splits_apart() -> None:
    found: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for split in SPLITS:
        parts = tuple(word for word, _ in split.pre_tokenizer().pre_tokenize_str(_PROBE))
        found.setdefault(parts, set()).add(split.patterns)
    assert all(len(patterns) == 1 for patterns in found.values())


def test_every_name_has_one_split() -> None:
    names = [name for split in SPLITS for name in split.names]
    assert len(names) == len(set(names)) and len(names) > 70
    assert isinstance(SPLITS[0].pre_tokenizer(), pre_tokenizers.PreTokenizer)
