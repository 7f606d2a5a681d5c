"""Where replies end: at a source's own ends of sequence, and at what its chat template and vocabulary end turns with.

Sources come with wrong ends, and chats run on: a base model's kept by a fine-tune, one of several. What is found is said.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from runtime.prompts import Prompts
from runtime.request import RequestError

#: Special tokens that end a turn, or a message to a tool, by their names: those of llama.cpp that end no whole text, and mean
#: nothing else in any vocabulary (`<|end|>` also ends a part of a reply).
_ENDS_OF_TURN = frozenset(
    {"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>", "<end_of_utterance>", "<EOT>", "_<EOT>", "[EOT]"}
    | {"<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>"}
)
#: beside any of these, `<|end|>` ends a part of a reply
_ENDS_BESIDE_PARTS = frozenset({"<|return|>", "<|flush|>"})
_QUESTION, _REPLY = "What now?", "Certainly"
#: what looks like a token
_MARKUP = re.compile(r"<\|?[^<>|\s]+\|?>")


def completed(prompts: Prompts, stated: Sequence[int]) -> list[int]:
    """`stated`, then the tokens that end turns and are not among them; chats alone have turns."""
    return [*stated, *_found(prompts, stated)]


def doubts(prompts: Prompts, stated: Sequence[int]) -> list[str]:
    """What is odd about a source's own ends of sequence, and what completes them, in sentences for the user; often none."""
    tokenizer, added = prompts.tokenizer, prompts.tokenizer.get_added_tokens_decoder()
    found, said = _found(prompts, stated), []
    if not stated:
        effect = "" if found else ", so that replies end only by max_tokens or a stop"
        said.append(f"the source names no end of sequence{effect}; is eos_token_id missing?")
    for token in stated:
        if tokenizer.id_to_token(token) is None:
            said.append(f"the end of sequence {token} is not a token of the tokenizer, so that no reply ends by it")
        elif token not in added or not added[token].special:
            said.append(
                f"the end of sequence {token}, {tokenizer.id_to_token(token)!r}, is not a special token: text may contain it"
            )
    for token, reason in found.items():
        said.append(
            f"{reason} {tokenizer.id_to_token(token)!r}, token {token}, which is not among the ends of sequence "
            f"{', '.join(map(str, stated)) or 'of the source'}: the bundle and its exports add it to eos_token_id, so that "
            "replies end by it"
        )
    markup = _MARKUP.match(_around_reply(prompts)[1])
    if markup and len(prompts.encode(markup[0], add_special_tokens=False)) > 1:
        said.append(f"after a reply the chat template writes {markup[0]!r}, which is not a token, so that no reply ends by it")
    return said


def _found(prompts: Prompts, stated: Collection[int]) -> dict[int, str]:
    """Tokens that end turns and are not `stated`, each with how it was found; none without a chat template."""
    if prompts.chat_template is None:
        return {}
    added = {token.content: i for i, token in prompts.tokenizer.get_added_tokens_decoder().items()}
    special = {token.content for token in prompts.tokenizer.get_added_tokens_decoder().values() if token.special}
    found = {}
    written = _end_of_turn(prompts, added)
    if written is not None and not (written == "<|end|>" and special & _ENDS_BESIDE_PARTS):
        found[added[written]] = "after a reply the chat template writes"
    for text in sorted(special & _ENDS_OF_TURN, key=added.__getitem__):
        found.setdefault(added[text], "the vocabulary has the end of turns")
    return {token: reason for token, reason in found.items() if token not in stated}


def _end_of_turn(prompts: Prompts, added: Collection[str]) -> str | None:
    """The added token that the template writes right after a reply; None where it writes none, or leaves replies out."""
    before, after = _around_reply(prompts)
    end = max((token for token in added if token and after.startswith(token)), key=len, default=None)
    # What stands alone between a question and its reply begins replies, and does not end them.
    return None if before == end else end


def _around_reply(prompts: Prompts) -> tuple[str, str]:
    """What the template writes before a reply, from the question on, and after it, without spaces around; empty if nothing."""
    chat = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _REPLY}]
    try:
        text = prompts.render_chat(chat, add_generation_prompt=False)
    except RequestError:  # it refuses them, or there is no template
        return "", ""
    before, reply, after = text.rpartition(_REPLY)
    return (before.rpartition(_QUESTION)[2].strip(), after.strip()) if reply else ("", "")
