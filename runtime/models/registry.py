"""The families that this runtime knows, by the `model_type` of their config."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from pydantic import ValidationError

from artifacts.architecture import Architecture
from runtime.models.deepseek_v2 import DeepseekV2Config
from runtime.models.deepseek_v3 import DeepseekV3Config
from runtime.models.gemma import GemmaConfig
from runtime.models.gemma2 import Gemma2Config
from runtime.models.gemma3 import Gemma3TextConfig
from runtime.models.gemma4 import Gemma4TextConfig
from runtime.models.gemma4_unified import Gemma4UnifiedTextConfig
from runtime.models.glm4 import Glm4Config
from runtime.models.gpt_oss import GptOssConfig
from runtime.models.granite import GraniteConfig
from runtime.models.granitemoe import GraniteMoeConfig
from runtime.models.granitemoehybrid import GraniteMoeHybridConfig
from runtime.models.hf_config import HfConfig
from runtime.models.llama import LlamaConfig
from runtime.models.mistral import MistralConfig
from runtime.models.mixtral import MixtralConfig
from runtime.models.olmo2 import Olmo2Config
from runtime.models.olmoe import OlmoeConfig
from runtime.models.phi3 import Phi3Config
from runtime.models.qwen2 import Qwen2Config
from runtime.models.qwen3 import Qwen3Config
from runtime.models.qwen3_moe import Qwen3MoeConfig
from runtime.models.smollm3 import SmolLM3Config
from runtime.models.unserved import refuse_unserved
from runtime.models.unsupported import UnknownArchitecture, UnsupportedModel

FAMILIES: dict[str, type[HfConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "gemma3_text": Gemma3TextConfig,
    "gemma4_text": Gemma4TextConfig,
    "gemma4_unified_text": Gemma4UnifiedTextConfig,
    "glm4": Glm4Config,
    "gpt_oss": GptOssConfig,
    "granite": GraniteConfig,
    "granitemoe": GraniteMoeConfig,
    "granitemoehybrid": GraniteMoeHybridConfig,
    "olmo2": Olmo2Config,
    "olmoe": OlmoeConfig,
    "phi3": Phi3Config,
    "smollm3": SmolLM3Config,
    "mixtral": MixtralConfig,
    "qwen3_moe": Qwen3MoeConfig,
    "deepseek_v2": DeepseekV2Config,
    "deepseek_v3": DeepseekV3Config,
}


def architecture(config: Mapping[str, object]) -> Architecture:
    """The architecture that a Hugging Face config.json describes.

    Raises UnservedArchitecture for a model that is known not to be served, UnknownArchitecture for another model_type
    outside FAMILIES, and UnsupportedModel, naming the key, where the config
    lacks a key, has a wrong value, or asks for something that the runtime does not do.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        refuse_unserved(config, FAMILIES)
        near = get_close_matches(str(model_type), FAMILIES, n=3, cutoff=0.5)
        advice = f", to which {', '.join(near)} {'is' if len(near) == 1 else 'are'} nearest" if near else ""
        raise UnknownArchitecture(f"model_type must be one of {', '.join(FAMILIES)}; the config says {model_type!r}{advice}")
    try:
        return family.model_validate(config).architecture()
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        raise UnsupportedModel(f"the {model_type} config cannot be used: {problems}") from None
