"""Request fields of OpenAI's and vLLM's servers that this one does not serve: which change no answer, which are refused.

Fields in neither table, and in no request model, are accepted and named in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HARMLESS = frozenset(
    {
        "access_programs",
        "anthropic_beta",
        "anthropic_version",
        "background_options",
        "cache_control",
        "context_management",
        "diagnostics",
        "early_stopping",
        "guided_decoding_backend",
        "include_obfuscation",
        "inference_geo",
        "length_penalty",
        "max_tool_calls",
        "media_io_kwargs",
        "metadata",
        "mm_processor_kwargs",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "return_mm_kwargs",
        "return_token_offsets",
        "routed_experts_prompt_start",
        "safety_identifier",
        "service_tier",
        "session_id",
        "spaces_between_special_tokens",
        "speed",
        "store",
        "stream_interval",
        "user",
        "user_profile_id",
        "workspace_id",
    }
)
"""They ask for records, routing, hints, or details of what is refused anyway: the answer is the same without them."""

_EMPTY: tuple[object, ...] = (None, False, 0, "", [], {})


@dataclass(frozen=True)
class Refusal:
    """Why a field is refused and what to do instead, and the values that ask for nothing and pass."""

    reason: str
    passes: tuple[object, ...] = _EMPTY


_TOOLS = "functions are offered as tools, use tools and tool_choice"
_CHATS = "tools are for chats, use /v1/chat/completions"
_CHOICE = "use logit_bias to allow or forbid tokens"
_FORMAT = "answers have only OpenAI's fields"
_SERVED_ALONE = "this server computes every request itself"

REFUSED: Mapping[str, Refusal] = {
    "allowed_token_ids": Refusal(_CHOICE),
    "audio": Refusal("answers are text"),
    "background": Refusal("an answer is given while its request lasts, use stream"),
    "bad_words": Refusal(_CHOICE),
    "chat_template": Refusal("the bundle's own template is used, render another one yourself and use /v1/completions"),
    "container": Refusal("this server runs no code"),
    "conversation": Refusal("conversations are not kept, go on with previous_response_id"),
    "custom_logit_processor": Refusal(_CHOICE),
    "ec_transfer_params": Refusal(_SERVED_ALONE),
    "echo": Refusal("prompts are echoed by /v1/completions"),
    "function_call": Refusal(_TOOLS, (*_EMPTY, "none", "auto")),
    "functions": Refusal(_TOOLS),
    "image": Refusal("prompts are text"),
    "kv_transfer_params": Refusal(_SERVED_ALONE),
    "logits_processors": Refusal(_CHOICE),
    "logprob_token_ids": Refusal("the most likely tokens are scored, use top_logprobs"),
    "modalities": Refusal("answers are text, ask for ['text']", (*_EMPTY, ["text"])),
    "mcp_servers": Refusal("this server runs no tools of its own"),
    "moderation": Refusal("prompts and answers are not moderated"),
    "prompt_embeds": Refusal("prompts are text or token ids"),
    "prompt_logprobs": Refusal("prompts are scored by /v1/completions with echo and logprobs"),
    "repetition_detection": Refusal("use frequency_penalty or repetition_penalty"),
    "return_prompt_text": Refusal(_FORMAT),
    "return_token_ids": Refusal(_FORMAT),
    "return_token_strs": Refusal(_FORMAT),
    "return_tokens_as_token_ids": Refusal(_FORMAT),
    "structural_tag": Refusal("use guided_grammar"),
    "suffix": Refusal("a text is continued at its end, not filled in"),
    "tool_choice": Refusal(_CHATS, (None, "none", "auto")),
    "tools": Refusal(_CHATS, (None, [])),
    "truncation_side": Refusal("a prompt keeps its end", (*_EMPTY, "left")),
    "use_beam_search": Refusal("answers are sampled, or greedy at temperature 0"),
    "verbosity": Refusal("the model has no such control, ask for it in a message", (*_EMPTY, "medium")),
    "vllm_xargs": Refusal("there are no extensions here"),
    "watermarking": Refusal("answers carry no watermark"),
    # For OpenAI an empty object asks for a search.
    "web_search_options": Refusal("there is no web search, put the information into a message", (None, False)),
}
