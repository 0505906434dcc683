"""The parameters of the failure detector, each with what it trades.

Seconds where a name ends in `_s`. Defaults are those of memberlist on a local network where nothing else is said.
`SWIM` is the protocol without Lifeguard and without what this implementation adds, for comparisons.
"""

from __future__ import annotations

import math

import attrs

__all__ = ["SWIM", "Tuning"]


@attrs.frozen
class Tuning:
    """What a failure detector goes by."""

    probe_interval_s: float = 1.0
    """One member is probed in each; a probe fails at its end. Shorter is quicker and costs packets."""
    probe_timeout_s: tuple[float, float] = (0.05, 0.5)
    """Least and greatest time for an answer before others are asked to probe as well."""
    helpers: int = 3
    """How many others are asked."""
    alpha: float = 4.0
    """The shortest suspicion is `alpha * log10(members)` periods. Smaller is quicker and errs more often."""
    beta: float = 6.0
    """The longest suspicion, which nobody confirms, is so many times the shortest."""
    health_max: int = 8
    """How many times longer than usual a node that does badly itself takes to judge others (Lifeguard)."""
    buddy: bool = True
    """Whether the accused are told with each ping, and whenever they speak (Lifeguard's buddy system)."""
    checks: int = 2
    """Of those who hear of a suspicion, so many for each confirmation that it needs look for themselves."""
    trial: float = 0.5
    """Another's word that a member is dead counts after this part of the shortest suspicion; 0: at once."""
    flaps_max: float = 12.0
    """A member that was accused and came back so often lately is held for dead until it is calm (see `damping`)."""
    gossip_interval_s: float = 0.2
    """How often news is sent while there is some."""
    gossip_nodes: int = 3
    """To how many members each time."""
    retransmit: int = 4
    """News is sent so many times the decimal logarithm of the number of members."""
    retransmit_min: int = 12
    """But at least so many times: small meshes lose packets too."""
    payload_bytes: int = 1_100
    """What fits into one datagram, with the overhead of sealing taken off."""
    sync_interval_s: float = 30.0
    """How often views are compared."""
    reconnect_interval_s: float = 30.0
    """How often one of those held for dead is tried."""
    forget_s: float = 86_400.0
    """How long members that are gone are remembered."""


SWIM = Tuning(alpha=5.0, beta=1.0, health_max=0, buddy=False, checks=0, trial=0.0, flaps_max=math.inf)
"""SWIM as it is compared with in the Lifeguard paper, section V."""
