"""openai: the Responses API, streamed and not, conversations, tools, reasoning, and answers parsed into pydantic models."""

import json
import sys

from openai import OpenAI
from pydantic import BaseModel

url, model = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", max_retries=0, timeout=60)


class Person(BaseModel):
    name: str
    age: int


first = client.responses.create(model=model, input="Hi", instructions="Be brief.", temperature=0)
assert first.output_text == "Hello there." and first.status == "completed"
second = client.responses.create(model=model, input="emoji", previous_response_id=first.id, temperature=0)
assert second.output_text == "你好 😀!" and second.usage.input_tokens > first.usage.input_tokens
assert client.responses.retrieve(first.id).output_text == "Hello there."
client.responses.delete(first.id)

with client.responses.stream(model=model, input="count", temperature=0) as stream:
    deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    final = stream.get_final_response()
assert "".join(deltas) == final.output_text == "one two three four five six seven"

tool = {
    "type": "function",
    "name": "get_weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
asked = client.responses.create(model=model, input="The weather?", tools=[tool], temperature=0)
(call,) = asked.output
assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Paris"}
result = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
told = client.responses.create(model=model, input=[result], previous_response_id=asked.id, tools=[tool], temperature=0)
assert told.output_text == "It is 21 degrees."
items = [{"role": "user", "content": "The weather?"}, *asked.output, result]
assert client.responses.create(model=model, input=items, tools=[tool], temperature=0).output_text == "It is 21 degrees."

with client.responses.stream(model=model, input="two cities", tools=[tool], temperature=0) as stream:
    done = [event.arguments for event in stream if event.type == "response.function_call_arguments.done"]
    final = stream.get_final_response()
assert [json.loads(arguments) for arguments in done] == [{"city": "Paris"}, {"city": "Rome"}]
assert [item.parsed_arguments for item in final.output] == [{"city": "Paris"}, {"city": "Rome"}], final.output

with client.responses.stream(model=model, input="think", temperature=0) as stream:
    thought = "".join(event.delta for event in stream if event.type == "response.reasoning_text.delta")
    final = stream.get_final_response()
assert thought == "Two and two." and final.output_text == "Four." and final.usage.output_tokens_details.reasoning_tokens > 0

parsed = client.responses.parse(model=model, input="A person", text_format=Person, temperature=0)
assert parsed.output_parsed == Person(name="Ada", age=36), parsed
with client.responses.stream(model=model, input="A person", text_format=Person, temperature=0) as stream:
    assert stream.get_final_response().output_parsed == Person(name="Ada", age=36)
print(json.dumps({"ok": True}))
