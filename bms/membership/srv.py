"""SRV records of DNS (RFC 2782): one name in the configuration, many nodes behind it.

A record says priority, weight, port and target. Targets of the lowest priority are to be tried first; among equal ones
chance decides, in proportion to the weights, so that many clients spread over the targets as their owner wants. A
single record whose target is "." says that the service is decidedly not there.

Names are resolved with dnspython, on Trio, by the resolvers of this machine (/etc/resolv.conf). It is imported only
when a name is resolved: it costs 4 MB. What DNS says is only a place to dial: identity is proven on the link, so that
DNSSEC is not needed. Absent: the search list of resolv.conf (names in a configuration are whole), and looking up the
targets, which the network does when it dials them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..values import Address

__all__ = ["Record", "order", "resolve"]

Record = tuple[int, int, int, str]
"""Priority, weight, port, target."""

_RECORDS_MAX = 100
_LIFETIME_S = 10.0


def order(records: Sequence[Record], chance: random.Random) -> list[Address]:
    """The targets in the order in which they are to be tried: by priority, drawn by weight (RFC 2782, page 3)."""
    found: list[Address] = []
    for priority in sorted({record[0] for record in records}):
        # Those of weight 0 first, so that they have a small chance of being drawn before the others.
        left = sorted((record for record in records if record[0] == priority), key=lambda record: record[1] > 0)
        while left:
            drawn, total = chance.randint(0, sum(record[1] for record in left)), 0
            for record in left:
                total += record[1]
                if total >= drawn:
                    left.remove(record)
                    found.append(Address(record[3].rstrip("."), record[2]))
                    break
    return [address for address in found if address.host and address.port]


async def resolve(name: str, nameserver: Address | None = None) -> tuple[Sequence[Record], float]:
    """The SRV records of `name` and for how many seconds they hold, by this machine's resolvers or by `nameserver`.

    No records if the name exists and has none. Raises OSError, which says why.
    """
    import dns.asyncbackend
    import dns.asyncresolver
    import dns.exception
    import dns.rdtypes.IN.SRV

    try:
        resolver = dns.asyncresolver.Resolver(configure=nameserver is None)
        if nameserver is not None:
            resolver.nameservers, resolver.port = [nameserver.host], nameserver.port
        answer = await resolver.resolve(
            name.rstrip(".") + ".", "SRV", raise_on_no_answer=False, lifetime=_LIFETIME_S,
            backend=dns.asyncbackend.get_backend("trio"),
        )  # fmt: skip
    except dns.exception.DNSException as error:
        raise OSError(f"{name} cannot be resolved: {_reason(error)}") from error
    records = []
    for record in list(answer.rrset or ())[:_RECORDS_MAX]:
        assert isinstance(record, dns.rdtypes.IN.SRV.SRV)
        target = record.target.to_text(omit_final_dot=True)
        records.append((record.priority, record.weight, record.port, target))
    return records, float(answer.chaining_result.minimum_ttl)


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
