"""Questions that one call of a function answers, written from a seed: what is asked says every argument.

A set of `format: tools`: each question comes with its own function and three others, in an order of its own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CITIES = ("Lisbon", "Oslo", "Nairobi", "Kyoto", "Toronto", "Lima", "Cairo", "Prague", "Hanoi", "Dublin", "Quito", "Seville")
LANGUAGES = ("French", "German", "Japanese", "Swahili", "Portuguese", "Polish")
PEOPLE = ("Amara", "Bruno", "Chen", "Dalia", "Emil", "Farah", "Greta", "Hugo")
TITLES = ("dentist appointment", "budget review", "piano lesson", "team lunch", "car inspection", "book club")
TOPICS = ("solar panels", "sourdough bread", "the history of chess", "electric bicycles", "coral reefs", "tax law in Spain")
PHRASES = ("good morning", "where is the station", "thank you very much", "see you tomorrow", "the bill, please")
UNITS = (("kilometers", "miles"), ("kilograms", "pounds"), ("liters", "gallons"), ("meters", "feet"), ("inches", "centimeters"))
CURRENCIES = ("USD", "EUR", "JPY", "GBP", "CHF", "BRL")


@dataclass(frozen=True)
class Asked:
    """`right` has the values that are right for each argument; "" says that it may be left out."""

    question: str
    right: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Kind:
    """A function and what asks for it. `parameters` maps names to JSON schemas, all required but `optional`."""

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, Any]]
    ask: Callable[[random.Random], Asked]
    optional: frozenset[str] = frozenset()

    @property
    def tool(self) -> dict[str, Any]:
        """As OpenAI's API has it."""
        required = [name for name in self.parameters if name not in self.optional]
        schema = {"type": "object", "properties": dict(self.parameters), "required": required, "additionalProperties": False}
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": schema}}


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _number(description: str) -> dict[str, Any]:
    return {"type": "number", "description": description}


def _integer(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _weather(draw: random.Random) -> Asked:
    city, unit = draw.choice(CITIES), draw.choice(("celsius", "fahrenheit"))
    forms = (
        f"What is the weather in {city} right now, in {unit}?",
        f"I am in {city}. How warm is it outside in {unit}?",
        f"Tell me the current temperature in {city} in degrees {unit}.",
    )
    return Asked(draw.choice(forms), {"city": [city], "unit": [unit]})


def _event(draw: random.Random) -> Asked:
    title, hour = draw.choice(TITLES), draw.randint(8, 20)
    date, time = f"2026-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}", f"{hour:02}:{draw.choice(('00', '15', '30'))}"
    forms = (
        f"Put a {title} into my calendar on {date} at {time}.",
        f"Please schedule a {title} for {date}, {time}.",
        f"Add an event called {title} at {time} on {date}.",
    )
    return Asked(draw.choice(forms), {"title": [title], "date": [date], "time": [time]})


def _conversion(draw: random.Random) -> Asked:
    (from_unit, to_unit), value = draw.choice(UNITS), draw.randint(2, 900)
    forms = (
        f"Convert {value} {from_unit} to {to_unit}.",
        f"How many {to_unit} are {value} {from_unit}?",
        f"What is {value} {from_unit} in {to_unit}?",
    )
    return Asked(draw.choice(forms), {"value": [value], "from_unit": [from_unit], "to_unit": [to_unit]})


def _search(draw: random.Random) -> Asked:
    topic, count = draw.choice(TOPICS), draw.randint(2, 12)
    queries = dict.fromkeys((topic, topic.removeprefix("the ")))
    forms = (
        f"Search the web for {topic} and give me the first {count} results.",
        f"Find {count} pages about {topic} on the web.",
        f"Look up {topic} on the internet, {count} results.",
    )
    return Asked(draw.choice(forms), {"query": list(queries), "num_results": [count]})


def _translation(draw: random.Random) -> Asked:
    phrase, language = draw.choice(PHRASES), draw.choice(LANGUAGES)
    forms = (
        f'Translate "{phrase}" into {language}.',
        f'How do I say "{phrase}" in {language}?',
        f'I need the {language} for "{phrase}".',
    )
    return Asked(draw.choice(forms), {"text": [phrase], "language": [language]})


def _exchange(draw: random.Random) -> Asked:
    (source, target), amount = draw.sample(CURRENCIES, 2), draw.randint(5, 5000)
    forms = (
        f"How much is {amount} {source} in {target}?",
        f"Exchange {amount} {source} to {target}.",
        f"I have {amount} {source}. What is that in {target}?",
    )
    return Asked(draw.choice(forms), {"amount": [amount], "source": [source], "target": [target]})


def _timer(draw: random.Random) -> Asked:
    minutes, label = draw.randint(2, 90), draw.choice(("pasta", "laundry", "tea", "workout"))
    forms = (
        f"Set a timer for {minutes} minutes, labelled {label}.",
        f"Start a {minutes} minute timer called {label}.",
        f"I need a {label} timer of {minutes} minutes.",
    )
    return Asked(draw.choice(forms), {"minutes": [minutes], "label": [label, f"{label} timer"]})


def _message(draw: random.Random) -> Asked:
    person, minutes = draw.choice(PEOPLE), draw.choice((5, 10, 20, 30))
    text = f"I am {minutes} minutes late"
    forms = (
        f'Send {person} the message "{text}".',
        f'Text {person}: "{text}"',
        f'Write to {person} that says "{text}".',
    )
    return Asked(draw.choice(forms), {"recipient": [person], "text": [text]})


KINDS = (
    Kind(
        "get_weather",
        "Get the current weather in a city.",
        {"city": _text("Name of the city"), "unit": _text("Unit of temperature", enum=["celsius", "fahrenheit"])},
        _weather,
    ),
    Kind(
        "create_event",
        "Create an event in the user's calendar.",
        {
            "title": _text("Title of the event"),
            "date": _text("Date as YYYY-MM-DD"),
            "time": _text("Time as HH:MM, 24 hours"),
        },
        _event,
    ),
    Kind(
        "convert_units",
        "Convert a value from one unit of measurement to another.",
        {"value": _number("Value"), "from_unit": _text("Unit of the value"), "to_unit": _text("Unit to convert to")},
        _conversion,
    ),
    Kind(
        "search_web",
        "Search the web.",
        {"query": _text("What to search for"), "num_results": _integer("How many results to return")},
        _search,
    ),
    Kind(
        "translate_text",
        "Translate a text into another language.",
        {"text": _text("Text to translate"), "language": _text("Name of the language to translate into, in English")},
        _translation,
    ),
    Kind(
        "convert_currency",
        "Convert an amount of money from one currency to another.",
        {
            "amount": _number("Amount"),
            "source": _text("Code of the currency of the amount"),
            "target": _text("Code of the currency to convert to"),
        },
        _exchange,
    ),
    Kind(
        "set_timer",
        "Start a countdown timer.",
        {"minutes": _integer("Length in minutes"), "label": _text("What the timer is for")},
        _timer,
    ),
    Kind(
        "send_message",
        "Send a text message to a person.",
        {"recipient": _text("Name of the person"), "text": _text("Text of the message")},
        _message,
    ),
)
_NUM_TOOLS = 4


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """Items of `format: tools`, each kind as often as the others; no question twice."""
    draw = random.Random(seed)
    items: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(items) < count:
        kind = KINDS[len(items) % len(KINDS)]
        asked = kind.ask(draw)
        if asked.question in seen:
            continue
        seen.add(asked.question)
        others = draw.sample([other for other in KINDS if other is not kind], _NUM_TOOLS - 1)
        offered = draw.sample([kind, *others], _NUM_TOOLS)
        expected = {"name": kind.name, "arguments": {name: list(values) for name, values in asked.right.items()}}
        items.append({"question": asked.question, "tools": [one.tool for one in offered], "expected": expected})
    return items


def write_questions(path: Path, count: int, seed: int) -> None:
    """A line for each."""
    path.write_text("".join(json.dumps(item) + "\n" for item in questions(count, seed)), encoding="utf-8")
