"""instructor with a real model: the answer is constrained, so that it always fits its model."""

import json
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

url, model = sys.argv[1:]


class City(BaseModel):
    name: str = Field(max_length=20)
    is_capital: bool


client = instructor.from_openai(OpenAI(base_url=f"{url}/v1"), mode=instructor.Mode.JSON_SCHEMA)
turns = [{"role": "user", "content": "Paris, as JSON"}]
city = client.chat.completions.create(
    model=model, response_model=City, messages=turns, temperature=0, max_tokens=120, max_retries=0
)
assert isinstance(city.is_capital, bool)
print(json.dumps({"ok": True, "city": city.model_dump()}))
