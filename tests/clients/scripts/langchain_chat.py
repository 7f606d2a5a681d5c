"""langchain-openai: chats, streams, bound tools, structured output, and the Responses API."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

url, model = sys.argv[1:]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "21"


for responses in (False, True):
    chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, temperature=0, use_responses_api=responses)
    assert chat.invoke("emoji").text == "你好 😀!"
    chunks = list(chat.stream("count"))
    assert len(chunks) > 5 and "".join(chunk.text for chunk in chunks) == "one two three four five six seven"

    bound = chat.bind_tools([get_weather])
    turns = [HumanMessage("The weather?")]
    asked = bound.invoke(turns)
    (call,) = asked.tool_calls
    assert call["name"] == "get_weather" and call["args"] == {"city": "Paris"}, asked
    turns += [asked, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
    assert bound.invoke(turns).text == "It is 21 degrees."

    whole = None
    for chunk in bound.stream("two cities"):
        whole = chunk if whole is None else whole + chunk
    assert [call["args"]["city"] for call in whole.tool_calls] == ["Paris", "Rome"], whole

    for method in ("json_schema", "function_calling"):
        person = chat.with_structured_output(Person, method=method).invoke("A person")
        assert person == Person(name="Ada", age=36), (method, person)
print(json.dumps({"ok": True}))
