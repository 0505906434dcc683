"""`bms nodes`, `status`, `sync` and `drain`: what a running node knows and is told to do.

They print what the node says; nothing is worked out here.
"""

from __future__ import annotations

import os

import attrs
import click
import trio

from ..control import ControlClient
from ..control.answers import plain
from ..errors import DeliveryError
from .local import any_node, local_node, resolve
from .output import age, json_option, print_json, print_pairs, print_table
from .program import Failed
from .remote import AnyNode

__all__ = ["drain", "nodes", "status", "sync"]

DRAIN_S = 660.0  # above the largest limits.drain_timeout_s


@click.command()
@click.option("--state", type=click.Choice(["alive", "suspect", "failed", "left"]), help="Only nodes in this state.")
@json_option
@any_node
async def nodes(client: AnyNode, state: str | None, form: str) -> None:
    """List the nodes of the mesh.

    As the node of this machine sees them, or the one behind --url, itself first.
    """
    found = await client.nodes(state)
    if form == "json":
        print_json(plain(found))
        return
    print_table(
        ("name", "id", "state", "address", "rtt", "seen"),
        (
            (
                node.name,
                node.node_id[:8],
                node.state,
                node.address,
                None if node.rtt_s is None else f"{node.rtt_s * 1000:.1f} ms",
                age(node.last_seen),
            )
            for node in found
        ),
    )


@click.command()
@json_option
@any_node
async def status(client: AnyNode, form: str) -> None:
    """Show a running node in short.

    Nodes whose fingerprints are equal hold the same data. Below it stands where the node has looked for others, and
    what became of it.
    """
    found = await client.status()
    if form == "json":
        print_json(attrs.asdict(found))
        return
    fields = attrs.asdict(found)
    counts = ", ".join(f"{count} {state}" for state, count in found.nodes.items() if count)
    fields |= {"nodes": counts, "uptime_s": f"{found.uptime_s:.1f}"}
    looked = fields.pop("discovery")
    print_pairs(fields.items())
    if looked:
        print_table(
            ("source", "candidate", "outcome", "when"),
            ((row["source"], row["candidate"], row["outcome"], age(row["when"])) for row in looked),
        )


@click.command()
@click.argument("peers", nargs=-1, metavar="[NODE]...")
@json_option
@any_node
async def sync(client: AnyNode, peers: tuple[str, ...], form: str) -> None:
    """Reconcile the data with other nodes now.

    With those named (id, its beginning, or name), or with all that are connected. Fails if one could not be brought to
    hold the same.
    """
    known = await client.nodes()
    chosen = [str(resolve(known, peer).node_id) for peer in peers] or None
    report = (await client.sync(chosen))["peers"]
    if form == "json":
        print_json({"peers": report})
    else:
        names = {node.node_id: node.name for node in known}
        print_table(
            ("name", "id", "equal", "sent", "received", "rounds", "seconds", "error"),
            (
                (
                    names.get(peer["node_id"]),
                    peer["node_id"][:8],
                    "yes" if peer["equal"] else "no",
                    peer["entries_sent"],
                    peer["entries_received"],
                    peer["rounds"],
                    f"{peer['seconds']:.3f}",
                    peer["error"],
                )
                for peer in report
            ),
        )
    failed = [peer["node_id"][:8] for peer in report if peer["error"]]
    if failed:
        raise Failed(f"could not reconcile with {', '.join(failed)}")


@click.command()
@local_node
async def drain(client: ControlClient) -> None:
    """Let a running node finish, leave the mesh and end.

    Returns when it has ended.
    """
    process = await _process(client)
    try:
        await client.stop()
    except DeliveryError:
        pass  # it has ended already
    with trio.move_on_after(DRAIN_S) as patience:
        await client.wait_closed()
        if process is not None:
            await trio.lowlevel.wait_readable(process)
    if patience.cancelled_caught:
        raise Failed(f"the node has not ended within {DRAIN_S:g} s")


async def _process(client: ControlClient) -> int | None:
    """A handle of the node's process, readable when it has ended; None where there is no such thing, or no process."""
    try:
        return os.pidfd_open((await client.status()).pid)
    except (AttributeError, OSError, DeliveryError):  # not Linux; of another container; ended already
        return None
