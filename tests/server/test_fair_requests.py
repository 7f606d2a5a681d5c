"""Over HTTP: priorities, fair shares of keys, short prompts beside long ones, choices that share a prompt, salted caches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import limits

BODY = {"model": "tiny", "prompt": "Hi", "temperature": 0, "max_tokens": 30}
#: Until all have asked; then it hurries.
SLOW = limits(max_num_seqs=1) | {"step_time_s": 0.05}


def complete(served: Any, key: str = "none", **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{served.url}/v1/completions", json=BODY | options, headers=headers, timeout=60)


class InOrder:
    """Requests in the background, one after the other into the queue; the orders in which they began and were answered."""

    def __init__(self, served: Any, wait: Any) -> None:
        self.served = served
        self.wait = wait
        self.ended: list[str] = []
        self.threads: list[threading.Thread] = []
        self._names: dict[str, str] = {}
        self._started: list[str] = []
        step = served.engine.step

        def watched_step() -> Any:
            outputs = step()
            self._started.extend(served.engine.last_started)
            return outputs

        served.engine.step = watched_step

    def ask(self, name: str, **options: Any) -> None:
        num_open = self._num_open()

        def work() -> None:
            answer = complete(self.served, **options)
            assert answer.status_code == 200
            self._names[answer.json()["id"]] = name
            self.ended.append(name)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        self.wait(lambda: self._num_open() > num_open)

    def began(self) -> list[str]:
        """Once all have been answered: who left the queue after whom."""
        self.finish()
        return [self._names[id.rpartition("-")[0]] for id in self._started]

    def finish(self, step_time_s: float = 0.001) -> list[str]:
        self.served.runner.step_time_s = step_time_s
        for thread in self.threads:
            thread.join()
        return self.ended

    def _num_open(self) -> int:
        stats = self.served.engine.stats()
        return int(stats.num_running + stats.num_waiting)


def test_lower_priorities_are_answered_first(run_server: Any, wait: Any) -> None:
    with run_server(runner_options=SLOW) as served:
        requests = InOrder(served, wait)
        requests.ask("running", max_tokens=400)
        for name, priority in (("a", 0), ("b", 7), ("c", -7), ("d", 0)):
            requests.ask(name, priority=priority, max_tokens=2)
        assert requests.began() == ["running", "c", "a", "d", "b"]


@pytest.mark.parametrize("priority", [2**31, -(2**31) - 1, 1.5, True, "high", [1]])
def test_a_priority_is_a_whole_number(served: Any, priority: Any) -> None:
    answer = complete(served, priority=priority)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "priority"


@pytest.mark.parametrize("priority", [2**31 - 1, -(2**31), 0, None])
def test_any_whole_number_is_a_priority(served: Any, priority: Any) -> None:
    assert complete(served, priority=priority, max_tokens=1).status_code == 200


@contextmanager
def keyed(run_server: Any, path: Path, **options: Any) -> Iterator[Any]:
    """A server with the keys "key-a" of a and "key-b" of b."""
    path.write_text("".join(f"{name}:{sha256(f'key-{name}'.encode()).hexdigest()}\n" for name in "ab"))
    with run_server(api_keys=path, **options) as served:
        yield served


def test_keys_take_turns_however_many_requests_each_has(run_server: Any, wait: Any, tmp_path: Path) -> None:
    with keyed(run_server, tmp_path / "keys", runner_options=SLOW) as served:
        requests = InOrder(served, wait)
        requests.ask("running", key="key-a", max_tokens=400)
        for i in range(6):
            requests.ask(f"a{i}", key="key-a", max_tokens=4)
        for i in range(3):
            requests.ask(f"b{i}", key="key-b", max_tokens=4)
        began = requests.began()
        assert began.index("b0") <= 2, "b does not wait behind a's queue"
        assert began.index("b2") < began.index("a4"), "and goes on in turns"
        assert [name for name in began if name[0] == "a"] == [f"a{i}" for i in range(6)]


def test_a_key_that_floods_the_queue_leaves_room_for_another(run_server: Any, wait: Any, tmp_path: Path) -> None:
    with keyed(run_server, tmp_path / "keys", max_queue=6, runner_options=SLOW) as served:
        requests = InOrder(served, wait)
        requests.ask("running", key="key-a", max_tokens=400)
        for i in range(3):
            requests.ask(f"a{i}", key="key-a", max_tokens=2)
        refused = complete(served, key="key-a")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_share"
        assert "3 of the sequences that wait are of this key" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        requests.ask("b", key="key-b", max_tokens=2)
        assert len(requests.finish()) == 5


def test_one_key_alone_has_the_whole_queue(run_server: Any, wait: Any) -> None:
    with run_server(api_key="key-a", max_queue=3, runner_options=SLOW) as served:
        requests = InOrder(served, wait)
        requests.ask("running", key="key-a", max_tokens=400)
        for i in range(3):
            requests.ask(f"a{i}", key="key-a", max_tokens=2)
        assert complete(served, key="key-a").json()["error"]["code"] == "queue_full"
        assert len(requests.finish()) == 4


@pytest.mark.parametrize("stream", [False, True])
def test_choices_share_the_blocks_of_their_prompt(run_server: Any, wait: Any, stream: bool) -> None:
    """A prompt of 10 blocks and a bit: four choices of 20 tokens need 10 blocks once, and 2 each."""
    options = limits(max_num_seqs=4, num_kv_blocks=40, max_num_batched_tokens=32) | {"step_time_s": 0.005}
    with run_server(runner_options=options) as served:
        prompt = served.encode("".join(chr(97 + i % 26) for i in range(170)))[:165]
        most = 0

        def watch() -> None:
            nonlocal most
            while not done.is_set():
                stats = served.engine.stats()
                most = max(most, stats.num_blocks - stats.num_free_blocks)
                time.sleep(0.001)

        done = threading.Event()
        watching = threading.Thread(target=watch)
        watching.start()
        answer = complete(served, prompt=prompt, n=4, max_tokens=20, stream=stream)
        done.set()
        watching.join()
        assert answer.status_code == 200
        assert 12 <= most <= 10 + 4 * 2
        stats = served.engine.stats()
        assert stats.num_cached_tokens == 3 * 160
        if not stream:
            expected = served.recited(len(prompt), 20)
            assert [choice["text"] for choice in answer.json()["choices"]] == [expected] * 4
            assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "of the first choice"


def test_requests_at_once_with_one_prompt_share_it_too(run_server: Any, wait: Any) -> None:
    options = limits(max_num_seqs=4, max_num_batched_tokens=16) | {"step_time_s": 0.1}
    with run_server(runner_options=options) as served:
        requests = InOrder(served, wait)
        for i in range(3):
            requests.ask(str(i), prompt="abcdefgh" * 20, max_tokens=2)
        assert len(requests.finish()) == 3
        assert served.engine.stats().num_cached_tokens == 2 * 160


def test_a_choice_whose_leader_leaves_computes_the_prompt_itself(run_server: Any, wait: Any) -> None:
    options = limits(max_num_seqs=4, max_num_batched_tokens=16) | {"step_time_s": 0.1}
    with run_server(runner_options=options) as served:
        prompt = "abcdefgh" * 20
        with httpx.stream("POST", f"{served.url}/v1/completions", json=BODY | {"prompt": prompt, "stream": True}) as _:
            wait(lambda: served.engine.stats().num_running == 1)
            requests = InOrder(served, wait)
            requests.ask("follower", prompt=prompt, max_tokens=3)
            assert served.engine.stats().num_waiting == 1, "it waits for the other's blocks"
        assert requests.finish() == ["follower"]


def cached_tokens(served: Any, salt: str | None) -> int:
    answer = complete(served, prompt="a salted prompt " * 5, max_tokens=1, cache_salt=salt)
    assert answer.status_code == 200
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_salt_keeps_caches_apart(run_server: Any) -> None:
    with run_server() as served:
        assert cached_tokens(served, None) == 0
        assert cached_tokens(served, "mine") == 0
        assert cached_tokens(served, "yours") == 0
        assert cached_tokens(served, "mine") == cached_tokens(served, None) > 0


@pytest.mark.parametrize("salt", [1, ["a"], "x" * 257])
def test_a_salt_is_a_short_string(served: Any, salt: Any) -> None:
    answer = complete(served, cache_salt=salt)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "cache_salt"


def test_a_short_prompt_is_answered_while_a_long_one_is_computed(run_server: Any, wait: Any) -> None:
    options = limits(max_num_seqs=2, max_num_batched_tokens=16) | {"step_time_s": 0.1}
    with run_server(runner_options=options) as served:
        requests = InOrder(served, wait)
        requests.ask("long", prompt="x" * 480, max_tokens=1)  # thirty steps alone
        requests.ask("short", prompt="y", max_tokens=3)
        assert requests.finish(step_time_s=0.02) == ["short", "long"]


def test_who_leaves_frees_its_blocks_before_the_next_step(run_server: Any, wait: Any) -> None:
    """What is free when a step begins, seen from within the steps."""
    with run_server(runner_options={"step_time_s": 0.01}) as served:
        seen: list[tuple[int, int]] = []
        run, abort = served.runner.run, served.engine.abort
        aborted_after: list[int] = []

        def watched_run(batch: Any) -> Any:
            stats = served.engine.stats()
            seen.append((stats.num_running, stats.num_free_blocks))
            return run(batch)

        def watched_abort(request_id: str) -> None:
            aborted_after.append(len(seen))
            abort(request_id)

        served.runner.run, served.engine.abort = watched_run, watched_abort
        requests = InOrder(served, wait)
        requests.ask("stays", max_tokens=400)
        with httpx.stream("POST", f"{served.url}/v1/completions", json=BODY | {"stream": True, "max_tokens": 400}) as answer:
            next(answer.iter_lines())
        wait(lambda: aborted_after)
        (step,) = aborted_after
        wait(lambda: len(seen) > step)
        assert seen[step - 1][0] == 2 and seen[step][0] == 1
        assert seen[step][1] >= seen[step - 1][1]
        requests.finish()
