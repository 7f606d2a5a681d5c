"""instructor: pydantic models by tools, by JSON schema and by JSON mode."""

import json
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel

url, model = sys.argv[1:]


class Person(BaseModel):
    name: str
    age: int


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON):
    client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="none"), mode=mode)
    turns = [{"role": "user", "content": "A person"}]
    person = client.chat.completions.create(
        model=model, response_model=Person, messages=turns, temperature=0, max_retries=0, max_tokens=200
    )
    assert (person.name, person.age) == ("Ada", 36), (mode, person)
    partial = list(client.chat.completions.create_partial(model=model, response_model=Person, messages=turns, temperature=0))
    assert partial[-1].name == "Ada" and partial[-1].age == 36, (mode, partial[-1])
print(json.dumps({"ok": True}))
