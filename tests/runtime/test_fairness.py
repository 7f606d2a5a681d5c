"""Who goes first: priorities, fair shares of clients, short prompts beside long ones. By simulation of the scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.fair_share import OUTPUT_WEIGHT, PROMPT_WEIGHT, FairShare
from runtime.prefill_split import split
from runtime.sequence import Sequence
from tests.runtime.simulation import Simulation, sequence_of

LACKS = st.lists(st.integers(1, 300), max_size=8)


@given(st.integers(0, 256), LACKS)
def test_a_split_wastes_nothing_and_gives_the_oldest_half(num_tokens: int, lacks: list[int]) -> None:
    shares = split(num_tokens, lacks)
    assert len(shares) == len(lacks)
    assert all(0 <= share <= lack for share, lack in zip(shares, lacks, strict=True))
    assert sum(shares) == min(num_tokens, sum(lacks))
    if lacks:
        assert shares[0] >= min(lacks[0], num_tokens / 2)
    for share, lack in list(zip(shares, lacks, strict=True))[1:]:
        longer = [s for s, other in zip(shares[1:], lacks[1:], strict=True) if other > lack]
        assert share == lack or not any(longer), "a longer one gets something only if the shorter has all it lacks"


@given(st.integers(1, 256), LACKS.filter(bool), st.integers(1, 300))
def test_who_comes_last_takes_from_the_others_and_gives_them_nothing(num_tokens: int, lacks: list[int], lack: int) -> None:
    """What the scheduler relies on: blocks are reserved by the shares before anybody is admitted."""
    before, after = split(num_tokens, lacks), split(num_tokens - 1, [*lacks, lack])
    assert all(then <= now for now, then in zip(before, after, strict=False))


ARRIVALS = st.lists(
    st.tuples(
        st.integers(1, 30),  # prompt
        st.integers(1, 12),  # output
        st.integers(0, 20),  # step
        st.integers(-1, 1),  # priority
        st.sampled_from("abc"),
        st.integers(0, 3),  # which prompt: some share blocks
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=150)
@given(ARRIVALS, st.integers(11, 24), st.integers(1, 6), st.integers(0, 20))
def test_every_load_ends(
    load: list[tuple[int, int, int, int, str, int]], num_blocks: int, max_num_seqs: int, extra: int
) -> None:
    simulation = Simulation.of(num_blocks=num_blocks, max_num_seqs=max_num_seqs, budget=max_num_seqs + extra)
    arrivals: dict[int, list[Sequence]] = {}
    for i, (num_prompt, num_output, step, priority, client, prompt) in enumerate(load):
        sequence = sequence_of(i, num_prompt, num_output, priority=priority, client=client, prompt=prompt)
        arrivals.setdefault(step, []).append(sequence)
    simulation.finish(arrivals)
    assert len(simulation.last_token) == len(load)


def admitted_in_order(simulation: Simulation) -> list[str]:
    """The names, or clients, in order of their first token."""
    return [sequence.request.id for sequence in sorted(simulation.first_token, key=simulation.first_token.__getitem__)]


def test_lower_priorities_go_first_and_equal_ones_by_arrival() -> None:
    simulation = Simulation.of(max_num_seqs=1)
    priorities = [0, 5, -3, 0, 5, -(2**31)]
    simulation.add(*(sequence_of(i, 4, 2, priority=priority) for i, priority in enumerate(priorities)))
    simulation.finish()
    assert admitted_in_order(simulation) == ["5", "2", "0", "3", "1", "4"]


@pytest.mark.parametrize(("priorities", "victim"), [((0, 0, 0), 2), ((0, 7, 0), 1), ((9, 7, 0), 0), ((7, 0, 7), 2)])
def test_the_victim_has_the_lowest_priority_and_is_the_youngest_of_these(priorities: tuple[int, int, int], victim: int) -> None:
    simulation = Simulation.of(num_blocks=8)
    sequences = [sequence_of(i, 7, 20, priority=priority) for i, priority in enumerate(priorities)]
    for sequence in sequences:  # one after the other, so that age is the order here
        simulation.add(sequence)
        simulation.advance()
    while not simulation.scheduler.num_preemptions:
        simulation.advance()
    assert [sequence.was_preempted for sequence in sequences] == [i == victim for i in range(3)]
    assert next(iter(simulation.scheduler.waiting)) is sequences[victim]


def test_a_short_prompt_starts_beside_a_long_one() -> None:
    simulation = Simulation.of(budget=32)
    long, short = sequence_of(0, 900), sequence_of(1, 12)
    simulation.add(long)
    simulation.advance()
    simulation.add(short)
    simulation.advance()
    assert short in simulation.first_token, "in its first step"
    simulation.finish()


def test_short_prompts_pass_a_second_long_one_in_the_queue_too() -> None:
    simulation = Simulation.of(budget=32)
    simulation.add(sequence_of(0, 900), sequence_of(1, 900), *(sequence_of(i, 8) for i in range(2, 6)))
    simulation.finish()
    assert max(simulation.first_token[s] for s in simulation.first_token if s.num_prompt_tokens == 8) <= 4


def test_prompts_of_one_length_are_computed_one_after_the_other() -> None:
    """To compute them in turns would end the first later and none earlier."""
    simulation = Simulation.of(budget=32)
    simulation.add(*(sequence_of(i, 320) for i in range(3)))
    simulation.finish()
    ends = sorted(simulation.first_token.values())
    assert ends[0] <= 11 and ends[1] <= 21 and ends[2] <= 31


@settings(max_examples=30)
@given(st.integers(1, 15), st.integers(1, 4))
def test_short_prompts_without_end_do_not_starve_a_long_one(num_short_tokens: int, per_step: int) -> None:
    budget, num_long_tokens = 32, 600
    simulation = Simulation.of(budget=budget, num_blocks=10_000)
    long = sequence_of(0, num_long_tokens)
    simulation.add(long)
    name = 1
    while long not in simulation.first_token:
        simulation.add(*(sequence_of(name + i, num_short_tokens) for i in range(per_step)))
        name += per_step
        simulation.advance()
        # Half of what each running sequence's own token leaves.
        assert simulation.step <= num_long_tokens / ((budget - simulation.scheduler.max_num_seqs) / 2) + 1


def test_a_long_prompt_in_the_queue_gets_its_turn_among_short_ones() -> None:
    simulation = Simulation.of(budget=32, num_blocks=10_000)
    first, second = sequence_of(0, 300), sequence_of(1, 300)
    simulation.add(first, second)
    name = 2
    while second not in simulation.first_token:
        simulation.add(*(sequence_of(name + i, 8) for i in range(3)))
        name += 3
        simulation.advance()
        assert simulation.step < 60


def test_a_long_prompt_costs_others_no_more_than_a_chunk() -> None:
    """Everybody who decodes gets a token in every step, and no step computes more than its budget."""
    simulation = Simulation.of(budget=32)
    decoding = [sequence_of(i, 4, 60) for i in range(4)]
    simulation.add(*decoding)
    simulation.advance()
    simulation.add(sequence_of(9, 900))
    for _ in range(25):
        plan = simulation.advance()
        assert {s.sequence for s in plan} >= set(decoding)
    assert set(simulation.num_tokens[1:]) == {32}
    assert [sequence.num_generated_tokens for sequence in decoding] == [26] * 4


def jain(shares: list[float]) -> float:
    """Jain's index: 1 if all are equal, 1 / n if one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def test_clients_get_equal_shares_however_much_they_ask_for() -> None:
    """One sends ten requests for another's one, one long prompts, one wants long answers; all ask for more than there is."""
    simulation = Simulation.of(max_num_seqs=4, budget=32, num_blocks=20_000)
    asks: dict[str, tuple[int, int, int]] = {"many": (10, 8, 8), "few": (1, 8, 8), "long": (1, 60, 4), "chatty": (1, 4, 40)}
    name = 0
    open_ones: dict[str, list[Sequence]] = {client: [] for client in asks}
    for _ in range(4000):
        for client, (num_open, num_prompt, num_output) in asks.items():
            waiting = [sequence for sequence in open_ones[client] if sequence not in simulation.last_token]
            for _ in range(8 * num_open - len(waiting)):
                sequence = sequence_of(name, num_prompt, num_output, client=client)
                name += 1
                waiting.append(sequence)
                simulation.add(sequence)
            open_ones[client] = waiting
        simulation.advance()
    served = [simulation.scheduler.shares.served(client) for client in asks]
    largest = max(PROMPT_WEIGHT * p + OUTPUT_WEIGHT * o for _, p, o in asks.values())
    # The paper's bound (theorem 4.4) is twice what the running batch can hold.
    assert max(served) - min(served) <= 2 * 4 * largest
    assert jain([float(share) for share in served]) > 0.999


def test_a_new_client_goes_next_and_has_no_credit_from_its_absence() -> None:
    simulation = Simulation.of(max_num_seqs=1, budget=32)
    simulation.add(*(sequence_of(i, 8, 4, client="old") for i in range(6)))
    for _ in range(9):
        simulation.advance()
    simulation.add(*(sequence_of(10 + i, 8, 4, client="new") for i in range(4)))
    simulation.finish()
    order = admitted_in_order(simulation)
    after = order[order.index("10") :]
    assert order.index("10") <= 3, "it does not wait behind the old one's queue"
    assert after[:4] in (["10", "3", "11", "4"], ["10", "11", "3", "12"], ["10", "3", "11", "12"]), "and they take turns"


def test_counters_are_bounded() -> None:
    shares = FairShare(max_clients=10)
    for i in range(1000):
        shares.activate(str(i), [])
        shares.charge(str(i), 100, 1)
        shares.deactivate(str(i), [])
        assert len(shares) <= 10
    assert shares.served("0") == shares.served("never seen"), "forgotten: it begins where a new one does"


@pytest.mark.parametrize("end", ["abort", "preempt", "nothing"])
def test_choices_of_a_prompt_compute_it_once(end: str) -> None:
    """Ten of 43 tokens: ten shared blocks, and for each choice one of its own."""
    simulation = Simulation.of(budget=16, max_num_seqs=10)
    scheduler = simulation.scheduler
    choices = [sequence_of(i, 43, 2, prompt=0) for i in range(10)]
    simulation.add(*choices)
    for _ in range(2):
        assert [scheduled.sequence for scheduled in simulation.advance()] == choices[:1], "the others wait for its blocks"
    leave: dict[str, Callable[[], object]] = {
        "abort": lambda: scheduler.remove(choices[0]),
        "preempt": lambda: preempt(simulation),
        "nothing": lambda: None,
    }
    leave[end]()
    num_before = sum(simulation.num_tokens)
    num_blocks: list[int] = []
    while scheduler.running or scheduler.waiting:
        simulation.advance()
        num_blocks.append(scheduler.blocks.num_blocks - scheduler.blocks.num_free_blocks)
    num_left = 9 if end == "abort" else 10
    assert max(num_blocks) <= 10 + num_left
    # What the two steps left of 40 tokens in full blocks; for each choice the 3 after these, and its first answer token.
    assert sum(simulation.num_tokens) - num_before == 8 + num_left * 4
    own = choices[1:] if end == "abort" else choices
    assert [choice.num_cached_tokens for choice in own] == ([32] if end == "abort" else [0]) + [40] * (len(own) - 1)


def test_choices_that_wait_for_their_prompt_hide_nobody_behind_them() -> None:
    simulation = Simulation.of(budget=32)
    simulation.add(*(sequence_of(i, 400, prompt=0) for i in range(128)))
    simulation.advance()
    short = sequence_of(200, 8)
    simulation.add(short)
    simulation.advance()
    assert short in simulation.first_token
    simulation.finish()


def test_many_choices_of_a_long_prompt_cost_a_step_nothing() -> None:
    """In a thread's CPU time: whoever waits for a prompt is looked at, not compared with it again in every step."""
    simulation = Simulation.of(budget=2048, num_blocks=20_000)
    simulation.add(*(sequence_of(i, 40_000, prompt=0) for i in range(40)))
    simulation.advance()
    simulation.advance()
    begin_s = time.thread_time()
    for _ in range(20):
        simulation.scheduler.schedule()
    assert (time.thread_time() - begin_s) / 20 < 0.02


def preempt(simulation: Simulation) -> None:
    """As if it had found no block."""
    scheduler = simulation.scheduler
    victim = scheduler.running.pop()
    scheduler.blocks.release(victim)
    victim.was_preempted = True
    scheduler.waiting.put_back(victim)


def test_a_salt_keeps_blocks_apart() -> None:
    simulation = Simulation.of()
    salted = [sequence_of(i, 41, prompt=0) for i in range(4)]
    for sequence, salt in zip(salted, ("", "a", "b", "a"), strict=True):
        object.__setattr__(sequence.request, "cache_salt", salt)
        simulation.add(sequence)
        simulation.finish()
    assert [sequence.num_cached_tokens for sequence in salted] == [0, 0, 0, 40]
