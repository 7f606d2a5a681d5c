"""adapter_config.json of a LoRA (Hu et al. 2021), as peft writes it: which modules, at which rank, how much of the product."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from optimizer.importers.errors import AdapterMismatch, DamagedFile, UnsupportedAdapter

#: options that change nothing once the adapter is trained: how it began, and what else is for training alone
_IDLE = {
    *("auto_mapping", "corda_config", "eva_config", "exclude_modules", "inference_mode", "layers_pattern"),
    *("layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version"),
    *("qalora_group_size", "revision", "runtime_config", "task_type"),
}
#: beginnings that leave the base as it is; others (pissa, olora, loftq) take from it what the adapter begins with
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")


class LoraConfig(BaseModel):
    """What decides the merged weights, with peft's defaults. Paths of modules are transformers'."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: str
    r: PositiveInt = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    """Without effect on linear layers, as in peft: it says how GPT-2's are stored."""
    bias: str = "none"
    target_modules: tuple[str, ...] | str | None = None
    modules_to_save: tuple[str, ...] | None = None
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, float] | None = None
    init_lora_weights: bool | str | None = True
    base_model_name_or_path: str | None = None

    @classmethod
    def of(cls, content: dict[str, Any], path: Path) -> LoraConfig:
        """Raises DamagedFile for a value of the wrong kind, and UnsupportedAdapter, which names the option."""
        try:
            config = cls.model_validate(content)
        except ValidationError as error:
            fault = error.errors()[0]
            raise DamagedFile(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
        if config.peft_type != "LORA":
            raise UnsupportedAdapter(f"{path} is of peft_type {config.peft_type}; only LORA can be merged")
        asked = {name: value for name, value in (config.model_extra or {}).items() if value and name not in _IDLE}
        if config.bias != "none":
            asked["bias"] = config.bias
        if config.init_lora_weights not in (*_BEGINNINGS, None):
            asked["init_lora_weights"] = config.init_lora_weights
        if asked:
            name = min(asked)
            raise UnsupportedAdapter(
                f"{path} has {name}: {asked[name]}, which is not merged here; merge it with peft (merge_and_unload, then "
                "save_pretrained) and name that folder as source"
            )
        return config

    def rank(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        """What the product of the two factors is multiplied by; rsLoRA's is that of Kalajdzievski 2023."""
        rank = self.rank(module)
        return _by_pattern(self.alpha_pattern, module, self.lora_alpha) / (rank**0.5 if self.use_rslora else rank)

    def check_targets(self, modules: Iterable[str], path: Path) -> None:
        """AdapterMismatch unless the file at `path` has factors of all modules that are named, and of no others."""
        found, named = list(modules), self.target_modules or ()
        if isinstance(named, str):
            strays = [m for m in found if named != "all-linear" and not re.fullmatch(named, m)]
            missing: list[str] = []
        else:
            strays = [m for m in found if not any(_is_named(m, name) for name in named)]
            missing = [name for name in named if not any(_is_named(m, name) for m in found)]
        if strays:
            raise AdapterMismatch(
                f"{path} has factors of {strays[0]}, which target_modules in adapter_config.json does not name"
            )
        if missing or not (found or self.modules_to_save):
            raise AdapterMismatch(f"{path} has no factors of {', '.join(missing) or 'anything'}; is it whole?")


def _is_named(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _by_pattern(pattern: Mapping[str, float] | None, module: str, default: float) -> float:
    """The value of the first key that the end of the module's path matches."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
