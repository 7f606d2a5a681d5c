"""A real model by the client that is named: it knows the capital of France, whole and streamed."""

import asyncio
import json
import sys

url, model, client = sys.argv[1:]
QUESTION = "What is the capital of France?"
TURNS = [{"role": "user", "content": QUESTION}]


def by_openai_chat():
    from openai import OpenAI

    chats = OpenAI(base_url=f"{url}/v1").chat.completions
    yield chats.create(model=model, messages=TURNS, temperature=0, max_tokens=24).choices[0].message.content
    stream = chats.create(model=model, messages=TURNS, temperature=0, max_tokens=24, stream=True)
    yield "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def by_openai_responses():
    from openai import OpenAI

    responses = OpenAI(base_url=f"{url}/v1").responses
    yield responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=24).output_text
    stream = responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=24, stream=True)
    yield "".join(event.delta for event in stream if event.type == "response.output_text.delta")


def by_anthropic():
    from anthropic import Anthropic

    options = {"model": model, "max_tokens": 24, "messages": TURNS, "extra_body": {"temperature": 0}}
    messages = Anthropic(base_url=url).messages
    yield messages.create(**options).content[0].text
    with messages.stream(**options) as stream:
        yield "".join(stream.text_stream)


def by_litellm():
    import litellm

    options = {"model": f"openai/{model}", "messages": TURNS, "temperature": 0, "max_tokens": 24, "api_base": f"{url}/v1"}
    yield litellm.completion(**options).choices[0].message.content
    yield "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**options, stream=True))


def by_langchain():
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=f"{url}/v1", model=model, temperature=0, max_tokens=24)
    yield chat.invoke(QUESTION).content
    yield "".join(chunk.content for chunk in chat.stream(QUESTION))


def by_agents():
    from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    settings = ModelSettings(temperature=0, max_tokens=24)

    async def both():
        client = AsyncOpenAI(base_url=f"{url}/v1")
        models = [kind(model=model, openai_client=client) for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel)]
        agents = [Agent(name="a", instructions="Be brief.", model=served, model_settings=settings) for served in models]
        return [(await Runner.run(agent, QUESTION)).final_output for agent in agents]

    yield from asyncio.run(both())


answers = list({name: value for name, value in globals().items() if name.startswith("by_")}[f"by_{client}"]())
assert len(answers) == 2 and all("Paris" in answer for answer in answers), answers
print(json.dumps({"answers": answers}))
