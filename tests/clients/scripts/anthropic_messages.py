"""anthropic: messages, streamed and not, tools, thinking, tokens counted, its own errors."""

import json
import sys

import anthropic

url, model = sys.argv[1:]
client = anthropic.Anthropic(base_url=url, max_retries=0, timeout=60)
greedy = {"extra_body": {"temperature": 0}}


def user(text):
    return [{"role": "user", "content": text}]


plain = client.messages.create(model=model, max_tokens=100, system="Be brief.", messages=user("emoji"), **greedy)
assert plain.content[0].text == "你好 😀!" and plain.stop_reason == "end_turn", plain

with client.messages.stream(model=model, max_tokens=100, messages=user("count"), **greedy) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == final.content[0].text == "one two three four five six seven"
assert final.usage.output_tokens > 5 and final.usage.input_tokens > 0

counted = client.messages.count_tokens(model=model, messages=user("count")).input_tokens
assert counted == final.usage.input_tokens + final.usage.cache_read_input_tokens

tool = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
asked = client.messages.create(model=model, max_tokens=200, messages=user("say and call"), tools=[tool], **greedy)
said, use = asked.content
assert asked.stop_reason == "tool_use" and said.text == "Let me look." and use.input == {"city": "Paris"}
result = {"type": "tool_result", "tool_use_id": use.id, "content": "21"}
turns = [*user("say and call"), asked.to_param(), {"role": "user", "content": [result]}]
told = client.messages.create(model=model, max_tokens=200, messages=turns, tools=[tool], **greedy)
assert told.content[0].text == "It is 21 degrees."

with client.messages.stream(model=model, max_tokens=200, messages=user("two cities"), tools=[tool], **greedy) as stream:
    pieces = "".join(event.partial_json for event in stream if event.type == "input_json")
    final = stream.get_final_message()
assert [block.input for block in final.content] == [{"city": "Paris"}, {"city": "Rome"}] and final.stop_reason == "tool_use"
assert "Paris" in pieces and "Rome" in pieces

for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
    options = {"tools": [tool], "tool_choice": choice, **greedy}
    forced = client.messages.create(model=model, max_tokens=200, messages=user("The weather?"), **options)
    assert [block.input for block in forced.content] == [{"city": "Paris"}] and forced.stop_reason == "tool_use"

with client.messages.stream(model=model, max_tokens=200, messages=user("think"), **greedy) as stream:
    thought = "".join(event.thinking for event in stream if event.type == "thinking")
    final = stream.get_final_message()
assert thought == "Two and two." and [block.type for block in final.content] == ["thinking", "text"]
again = [*user("think"), final.to_param(), *user("Hi")]
assert client.messages.create(model=model, max_tokens=50, messages=again, **greedy).content[0].text == "Hello there."

stopped = client.messages.create(model=model, max_tokens=50, messages=user("count"), stop_sequences=[" three"], **greedy)
assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " three")

for wrong, error in (({"model": "other"}, anthropic.NotFoundError), ({"max_tokens": 0}, anthropic.BadRequestError)):
    try:
        client.messages.create(**{"model": model, "max_tokens": 5, "messages": user("Hi")} | wrong)
    except error as caught:
        assert caught.body["type"] == "error" and caught.body["error"]["message"]
    else:
        raise AssertionError(wrong)
print(json.dumps({"ok": True}))
