"""The page at / in a real browser, over the real server. Answers that no tiny model gives are put in the server's place."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from playwright import sync_api

from tests.server.page.visiting import CALLS, HOSTILE, answer, answering, say, stream

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def test_an_answer_comes_bit_by_bit_and_says_what_it_took(slow: Any, visit: Any) -> None:
    page = visit(slow)
    page.wait_for_selector("#state:has-text('ready, context of 512 tokens')")
    assert page.title() == "tiny" and page.inner_text("#model") == "tiny"
    page.fill("[name=temperature]", "0")
    page.fill("[name=max_tokens]", "80")
    say(page, "Hi")
    text = page.locator(".message.assistant .text")
    sync_api.expect(page.locator(".assistant .text")).to_have_text(re.compile("...."))
    first = text.inner_text()
    assert page.get_attribute("#log", "aria-busy") == "true" and not page.is_visible("#send")
    done = answer(page)
    prompt = slow.encode("<|user|>Hi<|end|><|assistant|>")
    assert text.text_content() == slow.recited(len(prompt), 80) and len(first) < len(text.inner_text())
    facts = done.locator(".facts").inner_text()
    assert re.search(r"TTFT \d+ ms · [\d.]+ tokens/s · 80 tokens · \d+ in the prompt, \d+ of them cached · cut off", facts)
    assert 20 < float(re.findall(r"([\d.]+) tokens/s", facts)[0]) < 120, "a token takes 10 ms at least"
    assert page.inner_text("#ttft") == re.findall(r"TTFT (\d+ ms)", facts)[0]


def test_tool_calls_are_shown_and_their_results_sent(served: Any, visit: Any) -> None:
    page = visit(served)
    asked = answering(page, CALLS, stream({"content": "It rains."}))
    page.fill("#tools", json.dumps([TOOL]))
    page.select_option("#choice", "required")
    say(page, "Weather?")
    cards = answer(page).locator(".card strong")
    assert cards.all_inner_texts() == ["get_weather", HOSTILE]
    assert answer(page).locator(".card pre").all_inner_texts() == ['{\n  "city": "Paris"\n}', HOSTILE]
    assert (asked[0]["tools"], asked[0]["tool_choice"]) == ([TOOL], "required")
    page.get_by_label("Result of get_weather").fill('{"rain": true}')
    page.click("text=Send results")
    assert len(asked) == 1, "both are needed"
    page.get_by_label(f"Result of {HOSTILE}").fill("none")
    page.click("text=Send results")
    page.wait_for_selector("text=It rains.")
    calls = [("call_a", "get_weather", '{"city": "Paris"}'), ("call_b", HOSTILE, HOSTILE)]
    assert asked[1]["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "Two cities, two calls.",
            "tool_calls": [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": '{"rain": true}'},
        {"role": "tool", "tool_call_id": "call_b", "content": "none"},
    ]
    assert page.locator(".message.tool").count() == 2 and page.locator("text=Send results").count() == 0


def test_reasoning_is_folded(served: Any, visit: Any) -> None:
    page = visit(served)
    answering(page, CALLS)
    say(page, "Weather?")
    thoughts = answer(page).locator(".reasoning > div")
    assert not thoughts.is_visible()
    page.click("summary:has-text('Reasoning')")
    assert thoughts.is_visible() and thoughts.inner_text() == "Two cities, two calls."


def test_what_a_model_says_is_text(served: Any, visit: Any) -> None:
    page = visit(served)
    answering(page, stream({"reasoning_content": HOSTILE}, {"content": f"{HOSTILE}\n\n```html\n{HOSTILE}\n```\nand on"}))
    say(page, HOSTILE)
    assert answer(page).locator(".text").inner_text() == f"{HOSTILE}\n{HOSTILE}\nand on"
    assert answer(page).locator("pre").inner_text() == HOSTILE
    assert page.locator("#log img, #log script").count() == 0


def test_a_string_cannot_become_markup_even_by_mistake(served: Any, visit: Any) -> None:
    page = visit(served)
    with pytest.raises(sync_api.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>'")
    with suppress(sync_api.Error):
        page.add_script_tag(content="document.title = 'taken'")
    assert page.title() != "taken"
    assert [re.findall("TrustedHTML|TrustedScript", told) for told in visit.complaints] == [["TrustedHTML"], ["TrustedScript"]]
    visit.complaints.clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "message"), [(429, "64 sequences wait; come back in 7 s"), (503, "the server is shutting down")]
)
def test_a_busy_server_is_quoted_and_asked_again(served: Any, visit: Any, status: int, message: str) -> None:
    page = visit(served)
    asked = answering(page, json.dumps({"error": {"message": message, "code": None}}), status=status)
    page.fill("[name=max_tokens]", "2")
    say(page, "Hi")
    assert message in page.inner_text(".notice") and page.locator(".message.assistant").count() == 0
    page.click("text=Try again")
    assert answer(page).locator(".text").text_content()
    assert asked[0] == asked[1] and page.locator(".notice").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ('data: {"error": {"message": "the engine has failed", "code": null}}\n\ndata: [DONE]\n\n', "the engine has failed"),
        ("", "the answer has no end"),
    ],
)
def test_an_answer_that_breaks_off(served: Any, visit: Any, ending: str, words: str) -> None:
    page = visit(served)
    asked = answering(page, stream({"content": "Half of"}, finish_reason=None, ending=ending), stream({"content": "Whole."}))
    say(page, "Hi")
    assert words in page.inner_text(".notice") and "Half of" in page.inner_text("#log")
    page.click("text=Try again")
    assert answer(page).locator(".text").inner_text() == "Whole." and "Half of" not in page.inner_text("#log")
    assert asked[0]["messages"] == asked[1]["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_key_is_asked_for_and_kept_for_this_window(guarded: Any, visit: Any) -> None:
    page = visit(guarded)
    page.wait_for_selector("#state:has-text('needs an API key')")
    page.fill("[name=max_tokens]", "2")
    say(page, "Hi")
    assert "the API key is missing or wrong" in page.inner_text(".notice")
    assert page.evaluate("document.activeElement.id") == "key"
    page.fill("#key", "sesame")
    page.press("#key", "Tab")
    page.wait_for_selector("#state:has-text('ready')")
    page.click("text=Try again")
    assert answer(page).locator(".text").text_content()
    page.reload()
    page.wait_for_selector("#state:has-text('ready')")
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    visit(guarded).wait_for_selector("#state:has-text('needs an API key')")


def test_the_report_is_one_click_away_and_runs_nothing(guarded: Any, visit: Any) -> None:
    page = visit(guarded)
    page.click("#report")
    page.wait_for_selector(".notice:has-text('API key')")
    page.fill("#key", "sesame")
    page.press("#key", "Enter")
    page.wait_for_selector("#state:has-text('ready')")
    page.click("#report")
    page.frame_locator("#reported iframe").locator("h1:has-text('Measured')").wait_for()
    assert page.title() == "tiny", "its script has not run"
    assert all("sandboxed" in told for told in visit.complaints)
    visit.complaints.clear()
    page.keyboard.press("Escape")
    assert not page.is_visible("#reported")


@pytest.mark.slow
def test_a_bundle_without_a_report_is_said_to_have_none(served: Any, visit: Any) -> None:
    page = visit(served)
    page.click("#report")
    assert "this bundle has no report.html" in page.inner_text(".notice")


@pytest.mark.slow
def test_a_server_that_is_gone_is_said_to_be(run_server: Any, visit: Any) -> None:
    with run_server() as served:
        page = visit(served)
        page.wait_for_selector("#state:has-text('ready')")
    page.wait_for_selector("#state.bad:has-text('unreachable')")
    say(page, "Hi")
    assert "the server cannot be reached" in page.inner_text(".notice")
