"""Small random models as sources, and sources as transformers runs them."""

from __future__ import annotations

import copy
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from optimizer.importers import Source, open_source
from optimizer.quantization.decoder_layer import DecoderLayer, normed_for_head
from runtime.models import checkpoint_tensors
from runtime.models.stored_rows import HeadRows
from tests.importers.random_models import random_model, save_folder

#: latent attention whose values are of another size than its queries, behind it experts and a network of all tokens
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}


def open_small(config: PreTrainedConfig, folder: Path) -> Source:
    """A model of `config` with random fp32 weights of a trained model's size, saved in `folder` and opened."""
    model = random_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.div_(parameter.shape[-1] ** 0.5)
            else:
                parameter.mul_(0.3).add_(1.0)
    return open_source(save_folder(model, folder))


def transformers_model(source: Source, config: PreTrainedConfig) -> PreTrainedModel:
    """`source`'s tensors in the modules of `config`, fp64."""
    config = copy.deepcopy(config)
    config.tie_word_embeddings = source.architecture.tie_embeddings
    if source.architecture.moe:  # whose modules join what stands apart in a checkpoint
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            save_file(_stored(source), Path(folder) / "model.safetensors", {"format": "pt"})
            loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
            )
        return loaded
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double()
    missing, unexpected = model.load_state_dict(_stored(source), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return model


def _stored(source: Source) -> dict[str, torch.Tensor]:
    """As a checkpoint names them."""
    state, of_heads = {}, defaultdict(list)
    for name, parts in checkpoint_tensors(source.architecture).items():
        if isinstance(rows := parts[0].rows, HeadRows):  # of latents: each head's rows of keys, then those of values
            heads = source.tensor(name)
            of_heads[parts[0].name].append(heads.transpose(1, 2) if rows.transposed else heads)
            continue
        pieces = source.tensor(name).split([part.shape[0] for part in parts])
        state |= {part.name: piece.contiguous() for part, piece in zip(parts, pieces, strict=True)}
    return state | {name: torch.cat(heads, dim=1).flatten(0, 1) for name, heads in of_heads.items()}


def layer_logits(source: Source) -> torch.Tensor:
    """fp32 [40, vocab] of our own layers for one fixed sequence: of models whose checkpoints store rows in another order."""
    a = source.architecture
    ids = torch.randint(a.vocab_size, (40,), generator=torch.Generator().manual_seed(7))
    hidden = source.tensor("embed.weight")[ids].float()
    for i in range(a.num_layers):
        hidden = DecoderLayer(a, i, source.tensor, 40)(hidden)
    head = source.tensor("embed.weight" if a.tie_embeddings else "head.weight").float()
    return normed_for_head(a, source.tensor("final_norm.weight").float(), hidden) @ head.T


def logits(source: Source, config: PreTrainedConfig) -> torch.Tensor:
    """fp64 [2, 40, vocab] of transformers for two fixed sequences."""
    ids = torch.randint(config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        found: torch.Tensor = transformers_model(source, config)(ids).logits
    return found
