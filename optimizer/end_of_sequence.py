"""Whether replies end where a model's own files say that they do. What does not hold is said, and never refused.

A bundle has its source's ends of sequence (`as_proven.py` sees to it), but sources come with wrong ones, and chats run
on. Only the user can tell these from a model that is meant to be so.
"""

from __future__ import annotations

from collections.abc import Collection

from runtime.prompts import Prompts

_REPLY = "Certainly"


def doubts(prompts: Prompts, eos_ids: Collection[int]) -> list[str]:
    """What is odd about the ends of sequence `eos_ids`, in sentences for the user; empty for most models."""
    if not eos_ids:
        return [
            "the source names no end of sequence, so that replies end by max_tokens or a stop alone; is eos_token_id missing?"
        ]
    tokenizer, added = prompts.tokenizer, prompts.tokenizer.get_added_tokens_decoder()
    found = []
    for token in eos_ids:
        if tokenizer.id_to_token(token) is None:
            found.append(f"the end of sequence {token} is no token of the tokenizer, so that no reply ends by it")
        elif token not in added or not added[token].special:
            found.append(
                f"the end of sequence {token}, {tokenizer.id_to_token(token)!r}, is no special token: text may hold it"
            )
    end = _end_of_turn(prompts)
    if end is not None and end not in eos_ids:
        found.append(
            f"after a reply the chat template writes {tokenizer.id_to_token(end)!r}, token {end}, which is not among the ends "
            f"of sequence {', '.join(map(str, eos_ids))}: where chats run on, add it to eos_token_id in generation_config.json"
        )
    return found


def _end_of_turn(prompts: Prompts) -> int | None:
    """The first added token that the template writes after a reply; None where it writes none, or there is no template."""
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _REPLY}]
    try:
        text = prompts.render_chat(chat, add_generation_prompt=False)
    except ValueError:
        return None
    if _REPLY not in text:
        return None
    added = prompts.tokenizer.get_added_tokens_decoder()
    after = prompts.encode(text.rpartition(_REPLY)[2], add_special_tokens=False)
    return next((token for token in after if token in added), None)
