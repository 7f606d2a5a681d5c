"""openai: chats, streamed and not, tools, and answers parsed into pydantic models."""

import json
import sys

from openai import OpenAI
from pydantic import BaseModel

url, model = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", max_retries=0, timeout=60)


class Person(BaseModel):
    name: str
    age: int


def user(text):
    return [{"role": "user", "content": text}]


plain = client.chat.completions.create(model=model, messages=user("emoji"), temperature=0)
assert plain.choices[0].message.content == "你好 😀!", plain

with client.chat.completions.stream(model=model, messages=user("count"), temperature=0) as stream:
    deltas = [event.delta for event in stream if event.type == "content.delta"]
    final = stream.get_final_completion()
assert "".join(deltas) == final.choices[0].message.content == "one two three four five six seven"

tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
asked = client.chat.completions.create(model=model, messages=user("The weather?"), tools=[tool], temperature=0)
(call,) = asked.choices[0].message.tool_calls
assert asked.choices[0].finish_reason == "tool_calls" and json.loads(call.function.arguments) == {"city": "Paris"}
turns = [*user("The weather?"), asked.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "21"}]
told = client.chat.completions.create(model=model, messages=turns, tools=[tool], temperature=0)
assert told.choices[0].message.content == "It is 21 degrees."

with client.chat.completions.stream(model=model, messages=user("two cities"), tools=[tool], temperature=0) as stream:
    done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    final = stream.get_final_completion()
assert [event.parsed_arguments for event in done] == [{"city": "Paris"}, {"city": "Rome"}], done
assert len({call.id for call in final.choices[0].message.tool_calls}) == 2

for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
    options = {"tools": [tool], "tool_choice": choice, "temperature": 0}
    forced = client.chat.completions.create(model=model, messages=user("The weather?"), **options)
    (call,) = forced.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}

parsed = client.chat.completions.parse(model=model, messages=user("A person"), response_format=Person, temperature=0)
assert parsed.choices[0].message.parsed == Person(name="Ada", age=36), parsed
print(json.dumps({"ok": True}))
