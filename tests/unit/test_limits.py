from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from pydantic import ValidationError

from ultrachat_cli.backends.limits import Bucket, Budget, Limiter, LimitSettings, Slots, Usage
from ultrachat_cli.errors import BackendError, BudgetSpent, CircuitOpen
from ultrachat_cli.models.specs import Price
from ultrachat_cli.records.completion import Completion

PRICE = Price(input=1_000_000, output=1_000_000)
"""A dollar a token."""
ANSWER = Completion("yes", "stop", 10, 5, "m")


def busy(retry_after: float | None = None, status: int = 429) -> BackendError:
    return BackendError("busy", retryable=True, retry_after=retry_after, status=status)


REFUSED = BackendError("refused", "change the request", status=400)
NO_KEY = BackendError("no such key", "check the key", status=401, fatal=True)


class Server:
    """Answers with the given outcomes in turn, then with ANSWER; notes when it was asked."""

    def __init__(self, *outcomes: Completion | Exception, seconds: float = 0.0) -> None:
        self.outcomes, self.seconds = list(outcomes), seconds
        self.times: list[float] = []
        self.in_flight = self.most = 0

    @property
    def asked(self) -> int:
        return len(self.times)

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    async def __call__(self) -> Completion:
        self.times.append(time.monotonic())
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        outcome = self.outcomes.pop(0) if self.outcomes else ANSWER
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def limiter(*, max_cost: float | None = None, slots: int | None = None, **settings: Any) -> Limiter:
    quick = {"backoff": 0.001, "breaker_failures": 1000}
    return Limiter(LimitSettings(**{**quick, **settings}), Usage(), Budget(max_cost), slots=slots)


def ask(
    limits: Limiter, server: Server, *, prompt: int = 10, completion: int = 5, price: Price | None = None
) -> Awaitable[Completion]:
    return limits.run(server, prompt=prompt, completion=completion, price=price)


def run(limits: Limiter, server: Server, **expected: Any) -> Completion:
    async def once() -> Completion:
        return await ask(limits, server, **expected)

    return asyncio.run(once())


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class TestSlots:
    def test_no_more_than_there_are_slots(self) -> None:
        server = Server(seconds=0.002)

        async def many() -> None:
            limits = limiter(concurrency=3)
            await asyncio.gather(*(ask(limits, server) for _ in range(20)))

        asyncio.run(many())
        assert (server.most, server.asked) == (3, 20)

    def test_first_come_first_served(self) -> None:
        async def queue() -> list[int]:
            slots, order = Slots(1), []

            async def hold(n: int) -> None:
                async with slots:
                    order.append(n)
                    await asyncio.sleep(0)

            tasks = []
            for n in range(20):
                tasks.append(asyncio.create_task(hold(n)))
                if n % 3 == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            return order

        assert asyncio.run(queue()) == list(range(20))

    def test_a_newcomer_does_not_overtake_who_was_called(self) -> None:
        async def overtake() -> list[str]:
            slots, order = Slots(1), []

            async def hold(name: str) -> None:
                async with slots:
                    order.append(name)

            await slots.__aenter__()
            waiting = asyncio.create_task(hold("waiting"))
            await _settle()
            await slots.__aexit__()  # calls the one who waits, who has not run yet
            await hold("newcomer")
            await waiting
            return order

        assert asyncio.run(overtake()) == ["waiting", "newcomer"]

    @pytest.mark.parametrize("called", [False, True], ids=["still waiting", "just called"])
    def test_one_who_gives_up_waiting_takes_no_slot_along(self, called: bool) -> None:
        async def give_up() -> None:
            slots = Slots(1)

            async def hold() -> None:
                async with slots:
                    pass

            await slots.__aenter__()
            waiting = [asyncio.create_task(hold()) for _ in range(3)]
            await _settle()
            if called:
                await slots.__aexit__()
            waiting[0].cancel()
            if not called:
                await _settle()
                await slots.__aexit__()
            await asyncio.wait_for(asyncio.gather(*waiting[1:]), 1)
            assert waiting[0].cancelled()
            await asyncio.wait_for(slots.idle(), 1)
            await asyncio.wait_for(hold(), 1)

        asyncio.run(give_up())

    def test_an_error_gives_the_slot_back(self) -> None:
        async def fail() -> None:
            slots = Slots(1)
            for _ in range(3):
                with pytest.raises(ValueError, match="inside"):
                    async with slots:
                        raise ValueError("inside")
            await asyncio.wait_for(slots.idle(), 1)

        asyncio.run(fail())

    def test_idle_waits_for_a_slot_that_nobody_wants(self) -> None:
        async def watch() -> list[bool]:
            slots = Slots(2)
            seen = []

            async def look() -> None:
                task = asyncio.create_task(slots.idle())
                await _settle()
                seen.append(task.done())
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            async def hold(until: asyncio.Event) -> None:
                async with slots:
                    await until.wait()

            ends = [asyncio.Event() for _ in range(3)]
            await look()  # nobody is in
            tasks = [asyncio.create_task(hold(ends[0]))]
            await _settle()
            await look()  # one of two is free
            tasks += [asyncio.create_task(hold(end)) for end in ends[1:]]
            await _settle()
            await look()  # none is free, one waits
            ends[0].set()
            await _settle()
            await look()  # the free one went to who waited
            ends[1].set()
            await _settle()
            await look()  # one is free
            ends[2].set()
            await asyncio.gather(*tasks)
            return seen

        assert asyncio.run(watch()) == [True, True, False, False, True]

    def test_one_who_waits_to_try_again_holds_no_slot(self) -> None:
        slow, quick = Server(busy(retry_after=0.2)), Server()

        async def both() -> float:
            limits = limiter(concurrency=1)
            retried = asyncio.create_task(ask(limits, slow))
            await asyncio.sleep(0.02)
            begun = time.monotonic()
            await ask(limits, quick)
            took = time.monotonic() - begun
            await retried
            return took

        assert asyncio.run(both()) < 0.1
        assert slow.asked == 2

    def test_an_embedded_server_brings_its_own_number(self) -> None:
        assert limiter(concurrency=16, slots=2).slots.count == 2
        assert limiter(concurrency=16).slots.count == 16


class TestRates:
    def test_a_bucket_spreads_evenly_after_its_burst(self) -> None:
        async def take(bucket: Bucket, times: int) -> float:
            begun = time.monotonic()
            await asyncio.gather(*(bucket.take(1) for _ in range(times)))
            return time.monotonic() - begun

        assert asyncio.run(take(Bucket(6000, burst=0.1), 10)) < 0.05
        assert 0.2 <= asyncio.run(take(Bucket(6000, burst=0.1), 31)) < 0.5

    def test_larger_amounts_wait_longer(self) -> None:
        async def take() -> float:
            bucket = Bucket(60_000, burst=0.0)
            begun = time.monotonic()
            await bucket.take(150)
            return time.monotonic() - begun

        assert 0.14 <= asyncio.run(take()) < 0.4

    def test_corrections_shift_the_next_turn(self) -> None:
        async def take(correction: float) -> float:
            bucket = Bucket(60_000, burst=0.0)
            await bucket.take(50)
            bucket.correct(correction)
            begun = time.monotonic()
            await bucket.take(50)
            return time.monotonic() - begun

        assert asyncio.run(take(100)) >= 0.14
        assert asyncio.run(take(-50)) < 0.06

    def test_requests_a_minute(self) -> None:
        server = Server()

        async def many() -> None:
            limits = limiter(rpm=1200, concurrency=100)  # 20 a second, 40 at once
            await asyncio.gather(*(ask(limits, server) for _ in range(46)))

        asyncio.run(many())
        assert 0.25 <= server.times[-1] - server.times[0] < 0.8

    def test_tokens_a_minute_count_what_was_really_used(self) -> None:
        """Announced are 1000 tokens a request, used 15: after a correction the next one goes at once."""
        server = Server()

        async def some() -> None:
            limits = limiter(tpm=60_000)  # 1000 a second, 2000 at once
            for _ in range(6):
                await ask(limits, server, prompt=500, completion=500)

        asyncio.run(some())
        assert server.times[-1] - server.times[0] < 0.5

    @pytest.mark.parametrize("limit", [{"rpm": 20}, {"tpm": 120}])
    def test_the_first_request_goes_at_once(self, limit: dict[str, float]) -> None:
        async def first() -> None:
            await asyncio.wait_for(ask(limiter(**limit), Server(), prompt=5, completion=5), 0.2)

        asyncio.run(first())


class TestRetries:
    @pytest.mark.parametrize(
        ("failures", "counted"),
        [
            ([busy(), busy()], {"HTTP 429": 2}),
            ([busy(status=500), busy(status=503)], {"HTTP 500": 1, "HTTP 503": 1}),
            ([BackendError("cut off", retryable=True)], {"no answer": 1}),
        ],
    )
    def test_what_may_succeed_later_is_asked_again(self, failures: list[Exception], counted: dict[str, int]) -> None:
        limits, server = limiter(), Server(*failures)
        assert run(limits, server) == ANSWER
        assert server.asked == len(failures) + 1
        assert limits.usage.retries == counted

    def test_what_cannot_is_not(self) -> None:
        limits, server = limiter(), Server(REFUSED)
        with pytest.raises(BackendError) as caught:
            run(limits, server)
        assert caught.value is REFUSED
        assert (server.asked, limits.usage.retries.total()) == (1, 0)

    @pytest.mark.parametrize("attempts", [1, 2, 4])
    def test_attempts_come_to_an_end(self, attempts: int) -> None:
        errors = [busy() for _ in range(10)]
        server = Server(*errors)
        with pytest.raises(BackendError) as caught:
            run(limiter(attempts=attempts), server)
        assert caught.value is errors[attempts - 1]
        assert server.asked == attempts

    def test_other_errors_are_not_caught(self) -> None:
        server = Server(ValueError("a bug"))
        limits = limiter()
        with pytest.raises(ValueError, match="a bug"):
            run(limits, server)
        assert (server.asked, limits.usage.in_flight) == (1, 0)

    def test_a_servers_waiting_time_is_honoured(self) -> None:
        server = Server(busy(retry_after=0.15), busy(retry_after=0.05))
        run(limiter(), server)
        assert 0.15 <= server.waits[0] < 0.3
        assert 0.05 <= server.waits[1] < 0.15

    def test_a_servers_waiting_time_is_capped(self) -> None:
        server = Server(busy(retry_after=3600))
        run(limiter(max_wait=0.05), server)
        assert 0.05 <= server.waits[0] < 0.3

    def test_waits_double_up_to_the_cap(self) -> None:
        server = Server(*(busy() for _ in range(5)))
        run(limiter(backoff=0.02, max_wait=0.1), server)
        for wait, most in zip(server.waits, (0.02, 0.04, 0.08, 0.1, 0.1), strict=True):
            assert most / 2 <= wait < most + 0.05

    def test_waits_are_spread(self) -> None:
        """Requests that failed together do not come back together."""
        server = Server(*(busy() for _ in range(20)))

        async def many() -> None:
            limits = limiter(backoff=0.1, concurrency=20)
            await asyncio.gather(*(ask(limits, server) for _ in range(20)))

        asyncio.run(many())
        again = server.times[20:]
        assert max(again) - min(again) > 0.015


class TestCircuit:
    def test_a_fatal_error_opens_it_at_once(self) -> None:
        limits, server = limiter(), Server(NO_KEY)
        with pytest.raises(CircuitOpen, match="no such key") as caught:
            run(limits, server)
        assert (caught.value.hint, caught.value.status) == ("check the key", 401)
        with pytest.raises(CircuitOpen):
            run(limits, server)
        assert server.asked == 1

    def test_those_who_wait_to_try_again_are_told(self) -> None:
        server = Server(busy(retry_after=0.05), NO_KEY)

        async def two() -> list[Completion | BaseException]:
            limits = limiter()
            return await asyncio.gather(ask(limits, server), ask(limits, server), return_exceptions=True)

        assert [type(outcome) for outcome in asyncio.run(two())] == [CircuitOpen, CircuitOpen]
        assert server.asked == 2

    def test_so_many_failures_in_silence_open_it(self) -> None:
        server = Server(*(busy(status=500) for _ in range(20)))
        with pytest.raises(CircuitOpen, match="3 requests in a row failed; the last: busy") as caught:
            run(limiter(breaker_failures=3, breaker_seconds=0, attempts=10), server)
        assert server.asked == 3
        assert "same command again" in caught.value.hint

    def test_failures_within_the_time_allowed_do_not(self) -> None:
        server = Server(*(busy(status=500) for _ in range(20)))
        with pytest.raises(BackendError) as caught:
            run(limiter(breaker_failures=3, breaker_seconds=60, attempts=6), server)
        assert not isinstance(caught.value, CircuitOpen)
        assert server.asked == 6

    def test_an_answer_in_between_starts_the_count_anew(self) -> None:
        server = Server(*([busy(status=500), busy(status=500), ANSWER] * 4))

        async def some() -> None:
            limits = limiter(breaker_failures=3, breaker_seconds=0)
            for _ in range(4):
                await ask(limits, server)

        asyncio.run(some())
        assert server.asked == 12

    @pytest.mark.parametrize(("retry_after", "kind"), [(0.02, BackendError), (None, CircuitOpen)])
    def test_a_server_that_names_waiting_times_is_alive(
        self, retry_after: float | None, kind: type[BackendError]
    ) -> None:
        server = Server(*(busy(retry_after) for _ in range(20)))
        limits = limiter(breaker_failures=3, breaker_seconds=0.01, backoff=0.02, attempts=8)
        with pytest.raises(BackendError) as caught:
            run(limits, server)
        assert type(caught.value) is kind

    def test_requests_refused_one_after_the_other_open_it_without_silence(self) -> None:
        server = Server(*([REFUSED] * 10))

        async def some() -> list[type[BaseException]]:
            limits = limiter(breaker_failures=3, breaker_seconds=60)
            outcomes = [
                (await asyncio.gather(ask(limits, server), return_exceptions=True))[0] for _ in range(5)
            ]  # fmt: skip
            return [type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)]

        assert asyncio.run(some()) == [BackendError, BackendError, CircuitOpen, CircuitOpen, CircuitOpen]
        assert server.asked == 3


class TestBudget:
    def test_what_is_reserved_cannot_be_spent_twice(self) -> None:
        budget = Budget(10.0, spent=2.0)
        budget.reserve(5.0)
        assert budget.room == 3.0
        with pytest.raises(BudgetSpent, match=r"--max-cost 10: 2\.0000 dollars are spent") as caught:
            budget.reserve(3.5)
        assert caught.value.exit_code == 3
        assert "higher --max-cost" in caught.value.hint
        budget.settle(5.0, 1.0)
        assert (budget.room, budget.spent) == (7.0, 3.0)
        budget.reserve(7.0)

    def test_without_a_limit_there_is_always_room(self) -> None:
        budget = Budget(None)
        budget.reserve(1e12)
        budget.settle(1e12, 5.0)
        assert (budget.room, budget.spent) == (float("inf"), 5.0)

    def test_a_run_stops_before_it_could_exceed_the_budget(self) -> None:
        server = Server()

        async def many() -> Limiter:
            limits = limiter(max_cost=100)
            outcomes = []
            for _ in range(8):  # 15 dollars each, 20 at worst
                outcomes += await asyncio.gather(ask(limits, server, price=PRICE), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Completion] * 6 + [BudgetSpent] * 2
            return limits

        limits = asyncio.run(many())
        assert (limits.budget.spent, limits.budget.reserved) == (90.0, 0.0)
        assert server.asked == 6

    def test_requests_under_way_count_at_their_worst(self) -> None:
        server = Server(seconds=0.01)

        async def many() -> list[Completion | BaseException]:
            limits = limiter(max_cost=50)
            asked = [ask(limits, server, price=PRICE) for _ in range(4)]
            return await asyncio.gather(*asked, return_exceptions=True)

        assert [type(outcome) for outcome in asyncio.run(many())] == [Completion, Completion, BudgetSpent, BudgetSpent]

    @pytest.mark.parametrize("failure", [REFUSED, ValueError("a bug")])
    def test_a_request_that_failed_costs_nothing(self, failure: Exception) -> None:
        limits = limiter(max_cost=100)
        with pytest.raises(type(failure)):
            run(limits, Server(failure), price=PRICE)
        assert limits.budget.room == 100

    def test_a_server_that_does_not_count_tokens_does_not_lift_the_budget(self) -> None:
        server = Server(*(Completion("an answer of some length", "stop", 0, 0) for _ in range(50)))

        async def many() -> None:
            limits = limiter(max_cost=100)
            for _ in range(50):
                await ask(limits, server, price=PRICE)

        with pytest.raises(BudgetSpent):
            asyncio.run(many())


class TestUsage:
    def test_an_answer_carries_its_cost(self) -> None:
        limits = limiter()
        answer = run(limits, Server(), price=Price(input=2, output=10))
        assert answer.cost == pytest.approx((10 * 2 + 5 * 10) / 1e6)
        assert (answer.text, answer.prompt_tokens) == (ANSWER.text, ANSWER.prompt_tokens)
        assert limits.usage.cost == answer.cost

    def test_without_a_price_nothing_is_charged(self) -> None:
        limits = limiter()
        assert run(limits, Server()).cost == 0.0
        assert limits.usage.cost == 0.0

    def test_everything_asked_is_counted(self) -> None:
        limits, server = limiter(concurrency=4), Server(busy(), busy(), seconds=0.005)

        async def many() -> int:
            tasks = [asyncio.ensure_future(ask(limits, server)) for _ in range(6)]
            await asyncio.sleep(0.002)
            in_flight = limits.usage.in_flight
            await asyncio.gather(*tasks)
            return in_flight

        assert asyncio.run(many()) == 4
        usage = limits.usage
        assert (usage.requests, usage.in_flight, usage.retries.total()) == (8, 0, 2)
        assert (usage.prompt_tokens, usage.completion_tokens) == (60, 30)

    def test_a_cancelled_request_leaves_nothing_behind(self) -> None:
        async def cancel() -> Limiter:
            limits = limiter(concurrency=1, max_cost=100)
            task = asyncio.ensure_future(ask(limits, Server(seconds=10), price=PRICE))
            await _settle()
            assert (limits.usage.in_flight, limits.budget.reserved) == (1, 20)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(limits.slots.idle(), 1)
            return limits

        limits = asyncio.run(cancel())
        assert (limits.usage.in_flight, limits.budget.reserved) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"rpm": 0}, {"tpm": -1}, {"attempts": 0}, {"max_cost": 0}, {"timeout": 0}, {"burst": 2}],
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LimitSettings.model_validate(wrong)
