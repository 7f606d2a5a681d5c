"""Model types that are not served, each with what it has that nothing here computes: rows to read, and to add to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.models.unsupported import UnsupportedModel


class UnservedArchitecture(UnsupportedModel):
    """A model of a family that is known, and that has what the runtime does not do."""


@dataclass(frozen=True)
class Unserved:
    """A reason, and the model types that it holds for: `TYPE is not served: it has HAS, and BECAUSE`.

    `keys` of a config, and kinds in its `layer_types`, tell a type that is not listed.
    """

    title: str
    has: str
    because: str
    names: str
    """Model types, between spaces."""
    keys: tuple[str, ...] = ()
    layer_types: tuple[str, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.names.split())

    def holds_for(self, config: Mapping[str, object]) -> bool:
        """Whether the config has what is not served, whatever its type is called."""
        kinds = config.get("layer_types")
        return any(config.get(key) for key in self.keys) or (
            isinstance(kinds, list) and not set(self.layer_types).isdisjoint(map(str, kinds))
        )


_RECURRENT = Unserved(
    "recurrent state",
    "layers with a recurrent state (linear attention, a state space or short convolutions)",
    "the KV cache keeps keys and values of attention alone",
    """
    bailing_hybrid bamba falcon_h1 falcon_mamba granitehybrid jamba kimi_linear lfm2 lfm2_moe
    mamba mamba2 minimax minimax_text_01 nemotron_h nemotron_h_moe olmo_hybrid plamo2 qwen3_5_moe_text
    qwen3_5_text qwen3_next recurrent_gemma rwkv rwkv6 rwkv7 xlstm zamba zamba2
    """,
    ("conv_L_cache", "linear_attn_config", "linear_num_value_heads", "mamba_d_state", "mamba_num_heads", "ssm_state_size"),
    ("conv", "linear_attention", "lightning_attention", "mamba", "recurrent"),
)
_SPARSE = Unserved(
    "sparse attention",
    "sparse attention, for which an indexer chooses the positions that a query sees",
    "kernels attend to all positions, or to a window of the last ones",
    """
    deepseek_v32 deepseek_v4 glm_moe_dsa minicpm_sala
    """,
    ("index_n_heads", "index_topk", "sparse_attention_config"),
    ("compressed_sparse_attention", "heavily_compressed_attention", "sparse_attention"),
)
_ENCODER_DECODER = Unserved(
    "encoder and decoder",
    "an encoder beside its decoder",
    "one decoder is run, without cross-attention",
    """
    bart bigbird_pegasus blenderbot blenderbot-small encoder-decoder fsmt led longt5 m2m_100 marian mbart
    moonshine mt5 mvp nllb-moe pegasus pegasus_x pix2struct plbart prophetnet speech_to_text speecht5
    switch_transformers t5 t5gemma t5gemma2 trocr udop umt5 vision-encoder-decoder whisper
    """,
    ("is_encoder_decoder",),
)
_ENCODER = Unserved(
    "encoder",
    "an encoder alone, which reads text in both directions",
    "only text that is written one token after the other is served; there are no embeddings",
    """
    albert bert camembert convbert deberta deberta-v2 distilbert electra ernie esm eurobert flaubert fnet
    jina_embeddings_v3 longformer megatron-bert mobilebert modernbert mpnet nomic_bert roberta
    roberta-prelayernorm squeezebert t5encoder xlm-roberta xlm-roberta-xl
    """,
)
_GEMMA_3N = Unserved(
    "layers of Gemma 3n",
    "several streams, or embeddings for each layer, shared caches or heads of two sizes under another name",
    "of models with such layers Gemma 4 alone is known",
    "gemma3n_text",
    ("attention_k_eq_v", "hidden_size_per_layer_input", "num_kv_shared_layers", "per_layer_config"),
)
#: last, because a wrapper's own type is all that is said of it: what its text part has counts first
_WRAPPER = Unserved(
    "images, video or sound",
    "a part for images, video or sound",
    "text alone is served",
    """
    aria aya_vision blip-2 chameleon cohere2_vision deepseek_vl emu3 florence2 fuyu gemma3 gemma3n gemma4 glm4v
    glm4v_moe glm_ocr got_ocr2 granite_speech idefics idefics2 idefics3 instructblip internvl janus kimi_k25
    kosmos-2 lfm2_vl llama4 llava llava_next llava_next_video llava_onevision minicpmv mistral3 mllama molmo2
    moshi musicgen ovis2 paligemma phi4_multimodal qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_vl qwen3_5
    qwen3_5_moe qwen3_asr qwen3_omni_moe qwen3_vl qwen3_vl_moe seamless_m4t seamless_m4t_v2 smolvlm video_llava
    vipllava voxtral
    """,
    ("audio_config", "speech_config", "video_config", "vision_config"),
)
UNSERVED = (_RECURRENT, _SPARSE, _ENCODER_DECODER, _ENCODER, _GEMMA_3N, _WRAPPER)


def refuse_unserved(config: Mapping[str, object], families: Mapping[str, object]) -> None:
    """UnservedArchitecture, with what is served instead, for a config of a listed type, or one that has what is not served."""
    name = str(config.get("model_type"))
    found = next((row for row in UNSERVED if name in row.types), None)
    found = found or next((row for row in UNSERVED if row.holds_for(config)), None)
    if found is not None:
        raise UnservedArchitecture(_refusal(name, found, _text_part(config, families)))


def refuse_unserved_gguf(name: str) -> None:
    """The same of a GGUF file's architecture, however it is hyphenated. Such a file never holds more than the text part."""
    for row in UNSERVED:
        if row is not _WRAPPER and _plain(name) in map(_plain, row.types):
            raise UnservedArchitecture(_refusal(name, row, "a decoder with attention in every layer"))


def recurrent(name: str) -> UnservedArchitecture:
    """The error for a config of a type that is served where all layers attend, and whose layers do not."""
    return UnservedArchitecture(_refusal(name, _RECURRENT, f"a {name} with attention in every layer"))


def _refusal(name: str, row: Unserved, instead: str) -> str:
    return f"{name} is not served: it has {row.has}, and {row.because}; served instead: {instead} (docs/models.md)"


def _text_part(config: Mapping[str, object], families: Mapping[str, object]) -> str:
    part = config.get("text_config")
    kind = part.get("model_type") if isinstance(part, Mapping) else None
    if kind in families:
        return f"its text part, a {kind}, saved alone"
    return f"a decoder of text with attention in every layer ({', '.join(families)})"


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "")
