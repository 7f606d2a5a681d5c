"""The controls of the page at /, its figures, and that everybody can read and reach all of it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from playwright import sync_api

from tests.server.page.visiting import CALLS, answer, answering, say, stream


@pytest.mark.slow
@pytest.mark.parametrize("how", ["button", "escape"])
def test_an_answer_can_be_stopped(slow: Any, visit: Any, wait: Any, how: str) -> None:
    page = visit(slow)
    page.fill("[name=temperature]", "0")
    asked = answering(page)
    say(page, "Hi")
    sync_api.expect(page.locator(".assistant .text")).to_have_text(re.compile("...."))
    page.click("#stop") if how == "button" else page.keyboard.press("Escape")
    assert answer(page).locator(".facts").inner_text().endswith("stopped")
    wait(lambda: slow.engine.stats().num_running == 0)
    begun = page.locator(".assistant .text").first.text_content()
    page.fill("[name=max_tokens]", "2")
    say(page, "Go on")
    answer(page)
    assert [m["content"] for m in asked[1]["messages"]] == ["Hi", begun, "Go on"]


@pytest.mark.slow
def test_settings_are_fields_of_the_request(served: Any, visit: Any) -> None:
    page = visit(served)
    asked = answering(page)
    page.fill("#system", "Be brief.")
    for name, value in {"temperature": "0.5", "top_p": "0.9", "top_k": "7", "min_p": "0.01", "seed": "3"}.items():
        page.fill(f"[name={name}]", value)
    page.fill("#others", '{"max_tokens": 2, "stop": ["x"]}')
    say(page, "Hi")
    assert answer(page).locator(".text").text_content()
    assert asked == [
        {
            "model": "tiny",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 7,
            "min_p": 0.01,
            "seed": 3,
            "max_tokens": 2,
            "stop": ["x"],
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        }
    ]


WRONG = [
    ("#tools", "[{", '"Tools, a JSON list" must be a JSON list'),
    ("#tools", "{}", "must be a JSON list"),
    ("#tools", "null", "must be a JSON list"),
    ("#others", "[]", "must be a JSON object"),
    ("[name=temperature]", "9", '"Temperature": Value must be less than'),
    ("[name=max_tokens]", "1.5", '"Max tokens": '),
]


@pytest.mark.slow
def test_a_wrong_setting_is_named_and_nothing_is_asked(served: Any, visit: Any) -> None:
    page = visit(served)
    asked = answering(page, stream({"content": "Hello"}))
    say(page, "Hi")
    answer(page)
    for selector, value, words in WRONG:
        page.fill(selector, value)
        say(page, "Hi")
        assert words in page.inner_text(".notice") and len(asked) == 1
        page.fill(selector, "")
        page.locator(".notice").evaluate("notice => notice.remove()")
    page.fill("#tools", "{")
    say(page, "Hi")
    page.fill("#tools", "")
    page.fill("[name=max_tokens]", "2")
    page.click("text=Try again")
    assert answer(page).locator(".text").text_content() and page.locator(".notice").count() == 0


@pytest.mark.slow
def test_figures_are_the_servers(slow: Any, visit: Any) -> None:
    page = visit(slow)
    body = {"prompt": "The quick brown fox jumps over the dog", "max_tokens": 300, "temperature": 0, "n": 2, "stream": True}
    with httpx.stream("POST", f"{slow.url}/v1/completions", json=body) as others:
        lines = others.iter_lines()
        next(lines)
        page.wait_for_selector("#running:text-is('2')")
        sync_api.expect(page.locator("#rate")).to_have_text(re.compile(r"^[5-9]\d\.|^\d{3}"))
        assert 0 < float(page.inner_text("#kv").split()[0]) < 100
        assert page.inner_text("#queue") == "0"
    page.wait_for_selector("#running:text-is('0')")
    page.wait_for_selector("#rate:text-is('0.0')")
    stats = slow.engine.stats()
    share = stats.num_cached_tokens / stats.num_prompt_tokens
    page.wait_for_selector(f"#hits:text-is('{100 * share:.0f} %')")
    assert len(page.get_attribute("#curve", "points").split()) >= 2


def test_nothing_is_cut_off_at_any_width(served: Any, visit: Any) -> None:
    page = visit(served)
    answering(page, CALLS)
    say(page, "long" * 100)
    answer(page)
    for width in (320, 390, 860, 861, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        if width <= 860:
            page.locator("#settings").evaluate("settings => settings.open = false")
        page.locator("text=Send results").scroll_into_view_if_needed()
        assert page.locator("html").evaluate("html => html.scrollWidth - innerWidth") <= 0
        for selector in ("#send", "#report", "#clear", "#message", "#kv", "#hits", "text=Send results"):
            box = page.locator(selector).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= 800, (selector, width)


@pytest.mark.slow
def test_everything_has_a_name_and_the_keyboard_is_enough(served: Any, visit: Any) -> None:
    page = visit(served)
    nameless = """() => [...document.querySelectorAll('input, textarea, select, button, dialog, iframe')]
        .filter((one) => !(one.labels?.length || one.textContent.trim() || one.title || one.ariaLabel)).length"""
    assert page.evaluate(nameless) == 0
    assert page.evaluate("document.activeElement.id") == "message", "one can write at once"
    page.fill("[name=max_tokens]", "2")
    page.focus("#message")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answer(page)
    assert page.locator(".user .text").text_content() == "one\ntwo"
    assert page.input_value("#message") == "" and page.evaluate("document.activeElement.id") == "message"
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
    assert reached >= {"report", "clear", "log", "send", "key", "system", "temperature", "tools", "choice", "others"}


def luminance(colour: str) -> float:
    """Of #rrggbb, by WCAG."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(served: Any, visit: Any, scheme: str) -> None:
    """Contrast of 4.5 at least, as WCAG asks of text."""
    page = visit(served, color_scheme=scheme)
    read = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
    pairs = [("ink", "paper"), ("ink", "card"), ("quiet", "paper"), ("quiet", "card"), ("quiet", "grid"), ("steel", "paper"),
             ("fail", "fail-tint"), ("on-ember", "ember"), ("ember", "paper"), ("ink", "steel-tint")]  # fmt: skip
    for text, ground in pairs:
        light, dark = sorted((luminance(page.evaluate(read, name)) for name in (text, ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 22, 25)") == (scheme == "dark")


@pytest.mark.slow
def test_a_new_chat_forgets_the_old(served: Any, visit: Any) -> None:
    page = visit(served)
    page.fill("[name=max_tokens]", "2")
    asked = answering(page)
    say(page, "Hi")
    answer(page)
    page.click("#clear")
    assert page.locator(".message").count() == 0 and page.is_visible("#empty")
    say(page, "Again")
    answer(page)
    assert asked[1]["messages"] == [{"role": "user", "content": "Again"}]
