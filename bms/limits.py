"""Who may connect, to HTTP and to the mesh's port, and how often: the connections there are, the rate of each address.

    Gate    counts connections, in all and for each address. Where one too many comes, the connection that has been
            idle longest gives way to it: of that address if the address has its share, otherwise of the address that
            has most. Busy ones never give way; then the newcomer is turned away. So sockets that are opened and left
            alone lock out nobody. On the mesh's port a connection is idle, in this sense, until its handshake ends.
    Rates   a bucket of tokens for each address (Turner 1986): `rate` a second, at most twice as many (ten) at once. A
            request costs one, and so does a connection. Who asks without a token is refused and goes into debt, at most
            as deep as the bucket is high. Whoever gets there is barred until all of it has been repaid, which takes two
            seconds or more: not even refusals and TLS handshakes are for free. A body that is read and turns out too
            long costs a quarter of a full bucket. The mesh's port knows no debt (`spend`): honest members may share the
            address of whoever floods, and of a crowd some get through.

An address is a host's: IPv4, also where IPv6 carries it, or the /64 of an IPv6 address, since a host has all of one
(RFC 4291). Both objects are plain: what time it is goes in, and memory is bounded whatever addresses come.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import attrs

__all__ = ["Budget", "Gate", "Guest", "Rates", "address_key"]

_ADDRESSES_MAX = 4096
_BURST_S = 2.0
_BURST_MIN = 10.0


def address_key(host: str) -> str:
    """What stands for the host of an address as a socket gives it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


class Guest(Protocol):
    """A connection, as the gate sees it."""

    address: str

    @property
    def idle_since(self) -> float | None:
        """When it fell idle; None while a request is under way."""
        ...

    def evict(self) -> None:
        """End it now."""
        ...


class Gate:
    """The connections there are."""

    def __init__(self) -> None:
        self._guests: dict[str, set[Guest]] = {}
        self.count = 0

    def admit(self, guest: Guest, *, connections_max: int, per_address_max: int) -> bool:
        """Take one in, perhaps in the place of an idle one; False if there is no place. `leave` must follow."""
        if len(self._guests.get(guest.address, ())) >= per_address_max:
            if not self._evict_from(guest.address):
                return False
        elif self.count >= connections_max and not self._evict():
            return False
        self._guests.setdefault(guest.address, set()).add(guest)
        self.count += 1
        return True

    def leave(self, guest: Guest) -> None:
        """It has gone. Harmless when it has been evicted."""
        guests = self._guests.get(guest.address, set())
        if guest in guests:
            guests.remove(guest)
            self.count -= 1
            if not guests:
                del self._guests[guest.address]

    def _evict(self) -> bool:
        addresses = sorted(self._guests, key=lambda address: len(self._guests[address]), reverse=True)
        return any(self._evict_from(address) for address in addresses)

    def _evict_from(self, address: str) -> bool:
        idle = [(since, guest) for guest in self._guests[address] if (since := guest.idle_since) is not None]
        if not idle:
            return False
        _, guest = min(idle, key=lambda found: found[0])
        self.leave(guest)
        guest.evict()
        return True


@attrs.define(eq=False)
class Budget:
    """A bucket of tokens: `rate` a second flow in, at most `burst` are there."""

    rate: float
    burst: float
    debt_max: float = 0.0
    level: float = attrs.field(init=False)
    is_barred: bool = False
    _at: float | None = None

    def __attrs_post_init__(self) -> None:
        self.level = self.burst

    def give(self, amount: float) -> None:
        """Put tokens in, as far as they fit."""
        self.level = min(self.burst, self.level + amount)

    def take(self, amount: float, now: float) -> bool:
        """Take tokens; False if there were not enough, which costs them all the same, as far as debt goes."""
        if self._at is not None:
            self.level = min(self.burst, self.level + (now - self._at) * self.rate)
        self._at = now
        self.is_barred = self.is_barred and self.level < 0
        enough = self.level >= amount
        self.level = max(self.level - amount, -self.debt_max)
        self.is_barred = self.is_barred or (not enough and self.level == -self.debt_max)
        return enough


class Rates:
    """The buckets of all addresses. `rate` says how many tokens a second there are now."""

    def __init__(self, rate: Callable[[], float]) -> None:
        self._rate = rate
        self._budgets: OrderedDict[str, Budget] = OrderedDict()

    def take(self, address: str, now: float) -> float | None:
        """Count a request: None if it may go on, otherwise in how many seconds it may come again."""
        budget = self._budget(address)
        if budget.take(1, now):
            return None
        return (1 - budget.level) / budget.rate

    def spend(self, address: str, now: float) -> bool:
        """Take one if there is one. Unlike with `take`, a refusal costs nothing."""
        budget = self._budget(address)
        budget.take(0, now)
        return budget.level >= 1 and budget.take(1, now)

    def is_barred(self, address: str, now: float) -> bool:
        """Whether an address is to be refused everything."""
        budget = self._budget(address)
        budget.take(0, now)
        return budget.is_barred

    def punish(self, address: str, now: float) -> None:
        """Use up all that an address has, and more: it has shown that it means harm."""
        budget = self._budget(address)
        budget.take(2 * budget.burst, now)

    def charge(self, address: str, now: float) -> None:
        """Take a quarter of what an address may have at once: it has made this node work for nothing."""
        budget = self._budget(address)
        budget.take(budget.burst / 4, now)

    def _budget(self, address: str) -> Budget:
        rate = self._rate()
        burst = max(_BURST_MIN, rate * _BURST_S)
        budget = self._budgets.get(address)
        if budget is None:
            budget = self._budgets[address] = Budget(rate, burst, burst)
            if len(self._budgets) > _ADDRESSES_MAX:
                self._budgets.popitem(last=False)  # whoever has been quiet longest
        elif budget.rate != rate:
            budget.rate, budget.burst, budget.debt_max = rate, burst, burst
        self._budgets.move_to_end(address)
        return budget
