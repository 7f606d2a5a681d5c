"""openai-agents: an agent that calls a tool and one with an output type, by its default API (Responses) and by chats."""

import asyncio
import json
import sys

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

url, model = sys.argv[1:]
set_tracing_disabled(True)  # traces would go to another host


class Person(BaseModel):
    name: str
    age: int


cities = []


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    cities.append(city)
    return "21"


async def main():
    client = AsyncOpenAI(base_url=f"{url}/v1", max_retries=0)
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        cities.clear()
        agent = Agent(name="helper", instructions="Help.", model=kind(model=model, openai_client=client), tools=[get_weather])
        assert (await Runner.run(agent, "The weather?")).final_output == "It is 21 degrees."
        assert cities == ["Paris"]
        streamed = Runner.run_streamed(agent, "two cities")
        types = [event.type async for event in streamed.stream_events()]
        assert streamed.final_output == "It is 21 degrees." and cities == ["Paris", "Paris", "Rome"], (types, cities)
        writer = Agent(name="writer", model=kind(model=model, openai_client=client), output_type=Person)
        assert (await Runner.run(writer, "A person")).final_output == Person(name="Ada", age=36)
    responses = OpenAIResponsesModel(model=model, openai_client=client)
    agent = Agent(name="helper", model=responses, tools=[get_weather])
    first = await Runner.run(agent, "The weather?", auto_previous_response_id=True)
    second = await Runner.run(agent, "emoji", previous_response_id=first.last_response_id)
    assert second.final_output == "你好 😀!"


asyncio.run(main())
print(json.dumps({"ok": True}))
