"""The one place for slots, rates, retries, the circuit breaker and the cost budget.

A request holds a slot only while it is on the wire: one that waits for its Retry-After or back-off gives the slot to
another, so faults cost latency, not throughput.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from pydantic import Field

from ultrachat_cli.backends.base import estimate_tokens
from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import BackendError, BudgetSpent, CircuitOpen
from ultrachat_cli.models.specs import Price
from ultrachat_cli.records.completion import Completion


class LimitSettings(Frozen):
    """How hard an endpoint may be asked, and when to give up."""

    concurrency: int = Field(default=16, ge=1, le=65536)
    """Requests in flight at once, for each endpoint."""
    rpm: float | None = Field(default=None, gt=0)
    """Requests a minute, for each endpoint; none = unlimited."""
    tpm: float | None = Field(default=None, gt=0)
    """Tokens a minute (prompt and completion), for each endpoint; none = unlimited."""
    max_cost: float | None = Field(default=None, gt=0)
    """US dollars for the whole run; it stops before a request that could exceed them."""
    timeout: float = Field(default=180, gt=0)
    """Seconds for one request."""
    attempts: int = Field(default=8, ge=1)
    """Tries for one request before its dialogue counts as failed."""
    backoff: float = Field(default=0.5, gt=0)
    """Seconds before the first retry; doubles each time, with jitter."""
    max_wait: float = Field(default=60, gt=0)
    """Longest wait between tries, seconds; also caps a server's Retry-After."""
    breaker_failures: int = Field(default=16, ge=1)
    """This many failures in a row, and no success for `breaker_seconds`, stop the run."""
    breaker_seconds: float = Field(default=20, ge=0)
    """See `breaker_failures`."""


@dataclass
class Usage:
    """What was asked and what it took, live."""

    requests: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    retries: Counter[str] = field(default_factory=Counter)


class Budget:
    """Dollars: what is spent, and what the requests in flight could cost at most."""

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit, self.spent, self.reserved = limit, spent, 0.0

    @property
    def room(self) -> float:
        """Dollars that nobody has spent or reserved yet."""
        return float("inf") if self.limit is None else self.limit - self.spent - self.reserved

    def reserve(self, worst: float) -> None:
        """Set aside the most a request can cost; `BudgetSpent` when that is too much."""
        if worst > self.room:
            raise BudgetSpent(
                f"stopped before --max-cost {self.limit:g}: {self.spent:.4f} dollars are spent",
                "run the same command with a higher --max-cost to go on",
            )
        self.reserved += worst

    def settle(self, worst: float, actual: float) -> None:
        """Replace the reservation by what the request really cost."""
        self.reserved -= worst
        self.spent += actual


class Slots:
    """A counting semaphore that can tell when a slot is idle: free, with nobody waiting for it."""

    def __init__(self, count: int) -> None:
        self.count, self._free = count, count
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            if not self._free:
                self._idle.clear()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        self._idle.set()

    async def idle(self) -> None:
        """Returns when a slot is free and nobody waits for one."""
        await self._idle.wait()


class Bucket:
    """A rate per minute, spread evenly, `burst` seconds of it, or one request, at once. First come, first served."""

    def __init__(self, per_minute: float, burst: float = 2.0) -> None:
        self._rate, self._burst = per_minute / 60, burst
        self._at = float("-inf")

    async def take(self, amount: float) -> None:
        """Wait until `amount` is within the rate."""
        now, share = time.monotonic(), amount / self._rate
        burst = self._burst and max(self._burst, share)
        self._at = max(self._at, now - burst) + share
        if self._at > now:
            await asyncio.sleep(self._at - now)

    def correct(self, amount: float) -> None:
        """Charge (or give back, when negative) what an estimate missed."""
        self._at += amount / self._rate


def _counted(answer: Completion, prompt: int) -> Completion:
    """With estimated tokens where the server reports none: nothing paid for counts as free."""
    if answer.prompt_tokens or answer.completion_tokens:
        return answer
    return replace(answer, prompt_tokens=prompt, completion_tokens=estimate_tokens(answer.text))


class Limiter:
    """Guards one endpoint. `run` is the only way a request goes out."""

    def __init__(self, settings: LimitSettings, usage: Usage, budget: Budget, *, slots: int | None = None) -> None:
        self.settings, self.usage, self.budget = settings, usage, budget
        self.slots = Slots(slots or settings.concurrency)
        self._requests = Bucket(settings.rpm) if settings.rpm else None
        self._tokens = Bucket(settings.tpm) if settings.tpm else None
        self._failed_in_row = 0
        self._alive_at = time.monotonic()
        self._open: CircuitOpen | None = None

    async def run(
        self, call: Callable[[], Awaitable[Completion]], *, prompt: int, completion: int, price: Price | None
    ) -> Completion:
        """Make the call within all limits, again where that helps. `prompt`, `completion`: tokens expected at most."""
        for attempt in range(1, self.settings.attempts + 1):
            try:
                return await self._once(call, prompt, completion, price)
            except BackendError as error:
                self._note(error)
                if not error.retryable or attempt == self.settings.attempts:
                    raise
                self.usage.retries[f"HTTP {error.status}" if error.status else "no answer"] += 1
                await asyncio.sleep(self._wait(error, attempt))
        raise AssertionError("unreachable")

    async def _once(
        self, call: Callable[[], Awaitable[Completion]], prompt: int, completion: int, price: Price | None
    ) -> Completion:
        if self._requests:
            await self._requests.take(1)
        if self._tokens:
            await self._tokens.take(prompt + completion)
        async with self.slots:
            if self._open:
                raise self._open
            worst = price.cost(prompt * 3 // 2, completion) if price else 0.0
            self.budget.reserve(worst)
            actual = 0.0
            self.usage.in_flight += 1
            self.usage.requests += 1
            try:
                answer = _counted(await call(), prompt)
                actual = price.cost(answer.prompt_tokens, answer.completion_tokens) if price else 0.0
            finally:
                self.usage.in_flight -= 1
                self.budget.settle(worst, actual)
        self._failed_in_row = 0
        self._alive_at = time.monotonic()
        if self._tokens:
            self._tokens.correct(answer.prompt_tokens + answer.completion_tokens - prompt - completion)
        self.usage.prompt_tokens += answer.prompt_tokens
        self.usage.completion_tokens += answer.completion_tokens
        self.usage.cost += actual
        return replace(answer, cost=actual) if actual else answer

    def halt(self) -> None:
        """Let no further request out."""
        self._open = self._open or CircuitOpen("the run is being stopped", fatal=True)

    def forgive(self) -> None:
        """Close the circuit: somebody asks anew, perhaps after mending what was wrong."""
        self._open, self._failed_in_row, self._alive_at = None, 0, time.monotonic()

    def _note(self, error: BackendError) -> None:
        """Open the circuit when the endpoint is beyond hope; a server that names a waiting time is alive."""
        if isinstance(error, CircuitOpen):
            return
        now = time.monotonic()
        self._failed_in_row += 1
        if error.retry_after is not None:
            self._alive_at = max(self._alive_at, now + min(error.retry_after, self.settings.max_wait))
        enough = self._failed_in_row >= self.settings.breaker_failures
        silent = now - self._alive_at >= self.settings.breaker_seconds
        if error.fatal or (enough and (silent or not error.retryable)):
            why = "" if error.fatal else f"{self._failed_in_row} requests in a row failed; the last: "
            hint = error.hint or "run the same command again when the endpoint works: what was answered is kept"
            self._open = CircuitOpen(why + error.message, hint, status=error.status, fatal=True)
            raise self._open from error

    def _wait(self, error: BackendError, attempt: int) -> float:
        """Seconds until the next try: the server's word, or a doubling back-off; both jittered, both capped."""
        if error.retry_after is not None:
            return min(error.retry_after, self.settings.max_wait) * random.uniform(1.0, 1.1)
        doubled = self.settings.backoff * float(2 ** (attempt - 1))
        return min(doubled, self.settings.max_wait) * random.uniform(0.5, 1.0)
