"""litellm: chats, streams, tools and schemas, as an OpenAI-compatible provider; messages as Anthropic's."""

import json
import sys

import litellm
from pydantic import BaseModel

url, model = sys.argv[1:]


class Person(BaseModel):
    name: str
    age: int


def ask(text, **options):
    turns = options.pop("turns", [{"role": "user", "content": text}])
    return litellm.completion(
        model=f"openai/{model}", api_base=f"{url}/v1", api_key="none", messages=turns, temperature=0, max_tokens=200, **options
    )


assert ask("emoji").choices[0].message.content == "你好 😀!"
assert "".join(chunk.choices[0].delta.content or "" for chunk in ask("count", stream=True)).startswith("one two three")

function = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
tools = [{"type": "function", "function": function}]
asked = ask("The weather?", tools=tools)
(call,) = asked.choices[0].message.tool_calls
assert asked.choices[0].finish_reason == "tool_calls" and json.loads(call.function.arguments) == {"city": "Paris"}
turns = [
    {"role": "user", "content": "The weather?"},
    asked.choices[0].message.model_dump(),
    {"role": "tool", "tool_call_id": call.id, "content": "21"},
]
assert ask("", turns=turns, tools=tools).choices[0].message.content == "It is 21 degrees."

chunks = list(ask("two cities", tools=tools, stream=True))
whole = litellm.stream_chunk_builder(chunks)
calls = whole.choices[0].message.tool_calls
assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"], whole

person = ask("A person", response_format=Person).choices[0].message.content
assert Person.model_validate_json(person) == Person(name="Ada", age=36)

thought = ask("think").choices[0].message
assert thought.reasoning_content == "Two and two." and thought.content == "Four."

message = litellm.completion(
    model=f"anthropic/{model}", api_base=url, api_key="none", messages=[{"role": "user", "content": "emoji"}], max_tokens=50
)
assert message.choices[0].message.content == "你好 😀!", message
print(json.dumps({"ok": True}))
