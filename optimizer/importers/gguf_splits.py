r"""How text is split before merging, by the name that a GGUF file gives it (`tokenizer.ggml.pre`).

The names, and what each one means, are those of llama.cpp's src/llama-vocab.cpp (as llama-cpp-python 0.3.36 has it). Where
its patterns stand in for one of the model's own tokenizer.json that C++ regular expressions cannot say (it cites those), the
model's own is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from optimizer.importers.errors import UnsupportedTokenizer

#: what llama.cpp takes where a file names none
DEFAULT = "default"

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_HAN_AND_KANA = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
#: llama.cpp's has \u8c48 for \uf900: a compatibility character that was composed
_ASIAN = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    r"\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_ASCII_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_WORD_WITH_MARKS = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3 = rf"{_ASCII_WORD}|{_WORD_WITH_MARKS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
#: cased letters
_DEEPSEEK_LETTERS = (
    r"A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    r"\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    r"\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    r"\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    r"\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
    r"\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"
    r"\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    r"\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\x{10400}-\x{1044f}\x{104b0}-\x{104d3}"
    r"\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}"
)


def _cased(suffix: str, han: str = "") -> str:
    """Words whose capitals come first, as o200k and tekken split them; `suffix` follows a word, `han` narrows its letters."""
    upper, lower = (rf"\p{{{case}}}\p{{Lm}}\p{{Lo}}\p{{M}}{han}" for case in (r"Lu}\p{Lt", "Ll"))
    before = r"[^\r\n\p{L}\p{N}]?"
    return rf"{before}[{upper}]*[{lower}]+{suffix}|{before}[{upper}]+[{lower}]*{suffix}"


_GPT4O = rf"{_cased(f'{_CONTRACTION}?')}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_CASED_WITHOUT_HAN = _cased(f"{_CONTRACTION}?", r"&&[^\p{Han}]")


@dataclass(frozen=True)
class Split:
    """Each of `patterns` splits every part that those before it left into its matches and what is between them; then bytes.

    `ignores_merges`: a part that is a token is taken whole, whatever its merges give. `adds_bos` counts where a file does not
    say. `composes`: text is normalized to NFC first, which llama.cpp leaves out.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False
    composes: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _names(names: str) -> tuple[str, ...]:
    return tuple(names.split())


#: The first of several that split alike is the one that an export names.
SPLITS = (
    Split(
        _names(
            "gpt-2 phi-2 mpt olmo jais jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe modern-bert "
            "gigachat a.x-4.0 mellum exaone4 trillion granite-docling"
        ),
        (_GPT2,),
    ),
    Split((DEFAULT,), (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    Split(_names("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"), (r"\p{N}", _GPT2)),
    Split(
        _names("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
        (_LLAMA3,),
        ignores_merges=True,
        adds_bos=True,
    ),
    Split(_names("qwen2 deepseek-r1-qwen megrez kormo f2llmv2"), (_QWEN2,), composes=True),
    Split(_names("dbrx smaug-bpe chatglm-bpe"), (_LLAMA3,)),
    Split(_names("glm4 glm5"), (_LLAMA3,), ignores_merges=True),
    Split(_names("stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe"), (_QWEN2,)),
    Split(
        _names("qwen35"),
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
        ),
        composes=True,
    ),
    Split(_names("deepseek-v3 hunyuan-dense joyai-llm hy_v4"), (r"\p{N}{1,3}", _HAN_AND_KANA, _DEEPSEEK3)),
    Split(_names("afmoe"), (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _ASIAN, _DEEPSEEK3)),
    Split(
        _names("spark2_5"),
        (
            r"\p{N}{1,3}",
            _HAN_AND_KANA,
            rf"{_ASCII_WORD}|{_WORD_WITH_MARKS}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
            r"\p{N}",
        ),
    ),
    Split(
        _names("deepseek-llm"),
        (
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CJK,
            r"\p{N}+",
        ),
    ),
    Split(_names("deepseek-coder"), (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    Split(
        _names("tekken"),
        (rf"{_cased('')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",),
        ignores_merges=True,
        adds_bos=True,
    ),
    Split(
        _names("gpt-4o llama4 kanana2 talkie minimax-m2"),
        (_GPT4O,),
    ),
    Split(
        _names("granite-embed-multi-97m"),
        (_GPT4O,),
        ignores_merges=True,
    ),
    Split(
        _names("tiny_aya cohere2moe"),
        (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O),
    ),
    Split(
        _names("kimi-k2"),
        (rf"\p{{Han}}+|{_CASED_WITHOUT_HAN}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}",),
    ),
    Split(
        _names("youtu"),
        (
            r"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
            rf"|[\u3105-\u312f]+|{_HAN_AND_KANA}",
            rf"{_cased(f'{_CONTRACTION}?')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
        ),
        ignores_merges=True,
    ),
    Split(
        _names("minicpm5"),
        (r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"),
        ignores_merges=True,
    ),
    Split(
        _names("jais-2"),
        (
            rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|"
            + "|".join(rf"\s{{{length}}}(?!\S)" for length in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
            + r"|\s{1}",
        ),
    ),
    Split(_names("seed-coder"), (rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)),
    Split(_names("ufakzeka"), (rf"{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}",)),
    Split(_names("laguna"), (r"[^\n]+|[\n]+", _QWEN2)),
    Split(
        _names("exaone-moe"),
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    Split(_names("superbpe"), (r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    Split(_names("bloom poro-chat gpt3-finnish"), (_BLOOM,)),
    Split(_names("viking"), (_BLOOM, r"\p{N}")),
    Split(_names("falcon"), (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    Split(
        _names("chameleon"),
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        adds_bos=True,
    ),
)
_BY_NAME = {name: split for split in SPLITS for name in split.names}
#: what is more than a split, and why it is not made here: no model that is served has it
REFUSED_SPLITS = {
    "gemma4": "merges raw text with its spaces replaced, and takes runs of line breaks whole",
    "granite-embed-multi-311m": "merges raw text with its spaces replaced, and takes runs of line breaks whole",
    "sarvam-moe": "merges raw text with its spaces replaced",
    "whitespace": "merges raw text and drops its spaces",
}


def named_split(name: str) -> Split:
    """UnsupportedTokenizer for a name that llama.cpp does not know, and for one that is more than a split."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    why = f", which {REFUSED_SPLITS[name]}" if name in REFUSED_SPLITS else ""
    raise UnsupportedTokenizer(
        f"tokenizer.ggml.pre must be one of {', '.join(_BY_NAME)}, got {name!r}{why}; take the model's Hugging Face folder, "
        "whose tokenizer.json says how text is split"
    )
