"""Who asks, and how much they may: rate, tokens and concurrency of each tenant."""

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from rota.route.checks import NAME_MOST
from rota.route.keys import Keys
from rota.route.problems import Problem
from rota.route.settings import Tenants as Section
from rota.route.settings import TenantSettings

NAMES_MOST = 1000  # tenants named by a header that are told apart; the rest share one line of accounts
OTHERS = "(others)"


class Bucket:
    """So much a minute, a whole minute's worth at once. What turns out to cost more than was taken is owed."""

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self.level = per_minute
        self._at = 0.0

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; a full bucket gives any amount, or what is too large would wait for ever."""
        self.level = min(self.per_minute, self.level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return max(0.0, (min(amount, self.per_minute) - self.level) * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Take, or give back where negative."""
        self.level = min(self.per_minute, self.level - amount)


def _buckets(settings: TenantSettings) -> tuple[Bucket | None, Bucket | None]:
    rates = (settings.requests_per_minute, settings.tokens_per_minute)
    requests, tokens = (None if rate is None else Bucket(rate) for rate in rates)
    return requests, tokens


class Tenant:
    """The account of one tenant."""

    def __init__(self, index: int, settings: TenantSettings) -> None:
        self.index: int = index
        self.active = 0
        self.requests = self.refused = 0
        self.prompt_tokens = self.output_tokens = 0
        self.settings: TenantSettings = settings
        self.name = settings.name
        self._requests, self._tokens = _buckets(settings)

    def change(self, settings: TenantSettings) -> None:
        """New limits; the account goes on."""
        if settings != self.settings:
            self.settings = settings
            self._requests, self._tokens = _buckets(settings)

    def enter(self, tokens: float, now: float) -> None:
        """Take a request's share of the limits. Raises Problem (429) with the time after which to try again."""
        most = self.settings.max_concurrent
        for limit, wait in (
            (f"{most} requests at a time", 1.0 if most is not None and self.active >= most else 0.0),
            ("requests a minute", self._requests.wait(1.0, now) if self._requests else 0.0),
            ("tokens a minute", self._tokens.wait(tokens, now) if self._tokens else 0.0),
        ):
            if wait > 1e-9:
                self.refused += 1
                text = f"rate limit reached: {limit}; try again in {wait:.1f} s"
                raise Problem(429, text, "rate_limit_error", code="rate_limit_exceeded", retry_after=wait)
        if self._requests:
            self._requests.take(1.0)
        if self._tokens:
            self._tokens.take(tokens)
        self.active += 1
        self.requests += 1

    def leave(self, believed: float, prompt: float, output: float) -> None:
        """A request is over: what was believed of its tokens is replaced by what they were."""
        self.active -= 1
        self.prompt_tokens += int(prompt)
        self.output_tokens += int(output)
        if self._tokens:
            self._tokens.take(prompt + output - believed)


class Tenants:
    """All tenants, by key or by header."""

    def __init__(self, section: Section, known: tuple[TenantSettings, ...]) -> None:
        self._by_name: OrderedDict[str, Tenant] = OrderedDict()
        self.change(section, known)

    def change(self, section: Section, known: tuple[TenantSettings, ...]) -> None:
        """A new configuration; the accounts go on."""
        self.section = section
        pairs = [(text, tenant.name) for tenant in known for text in tenant.keys]
        self.keys = Keys(pairs) if pairs else None
        self._configured = {tenant.name: tenant for tenant in known}
        for name, tenant in self._by_name.items():
            tenant.change(self._settings(name))

    @property
    def all(self) -> list[Tenant]:
        return list(self._by_name.values())

    def _settings(self, name: str) -> TenantSettings:
        found = self._configured.get(name)
        return found if found is not None else msgspec.structs.replace(self.section.other, name=name)

    def named(self, name: str) -> Tenant:
        """The tenant of a name; strangers beyond the first thousand share an account."""
        if name not in self._by_name:
            if name not in self._configured and len(self._by_name) >= NAMES_MOST:
                name = OTHERS
            if name not in self._by_name:
                self._by_name[name] = Tenant(len(self._by_name), self._settings(name))
        return self._by_name[name]

    async def who(self, headers: Mapping[str, str]) -> Tenant:
        """The tenant of a request. Raises Problem (401) where keys are needed and none of them was given."""
        if self.keys is not None:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            owner = await self.keys.owner(key.strip()) if scheme.lower() == "bearer" else None
            if owner is None:
                text = "no valid API key was given: send it as 'Authorization: Bearer KEY'"
                raise Problem(401, text, "invalid_request_error", code="invalid_api_key")
            return self.named(owner)
        name = headers.get(self.section.header, "") if self.section.header else ""
        if len(name) > NAME_MOST or not name.isprintable():
            raise Problem(
                400,
                f"{self.section.header}: must be printable, at most {NAME_MOST} characters",
                "invalid_request_error",
            )
        return self.named(name)
