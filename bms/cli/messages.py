"""`bms send`, `broadcast` and `listen`: messages through a node.

`listen` shares the topics of the node: a message that waited for a first subscriber goes to whoever comes first.
"""

from __future__ import annotations

import base64
import time

import click
import trio

from ..log import printable
from ..values import Message, Missed
from .local import Choice, any_node, any_node_options, open_node, resolve
from .output import json_option, print_json, read_input, show_bytes
from .remote import AnyNode

__all__ = ["broadcast", "listen", "send"]

_topic = click.option("--topic", default="", help="The topic; without it the empty one.")


@click.command()
@click.argument("target", metavar="NODE")
@click.argument("body", required=False)
@_topic
@click.option(
    "--deadline", "deadline_s", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True,
    help="Seconds to go on trying.",
)  # fmt: skip
@any_node_options
def send(choice: Choice, target: str, body: str | None, topic: str, deadline_s: float) -> None:
    """Send a message to one node.

    NODE is its id, the beginning of one, or its name; BODY is text, or standard input with '-' or in a pipe. Returns
    when that node has it.
    """
    content = read_input(body, "BODY")

    async def act() -> None:
        async with open_node(choice) as client:
            to = resolve(await client.nodes(), target)
            await client.send(to.node_id, content, topic=topic, deadline_s=deadline_s)

    trio.run(act)


@click.command()
@click.argument("body", required=False)
@_topic
@any_node_options
def broadcast(choice: Choice, body: str | None, topic: str) -> None:
    """Send a message to all nodes.

    Nobody acknowledges it; the number printed is of the nodes that it was queued for.
    """
    content = read_input(body, "BODY")

    async def act() -> int:
        async with open_node(choice) as client:
            return await client.broadcast(content, topic=topic)

    count = trio.run(act)
    click.echo(f"sent to {count} other node{'' if count == 1 else 's'}")


def _fields(message: Message) -> dict[str, object]:
    try:
        text: str | None = message.body.decode()
    except UnicodeDecodeError:
        text = None
    return {
        "id": message.id,
        "sender": message.sender,
        "topic": message.topic,
        "body": text,
        "body_base64": base64.b64encode(message.body).decode(),
        "sent_at": message.sent_at,
    }


def _show(message: Message | Missed, form: str) -> None:
    if isinstance(message, Missed):
        if form == "json":
            print_json({"missed": message.count})
        else:
            click.echo(f"({message.count} broadcasts were missed: too slow)")
    elif form == "json":
        print_json(_fields(message))
    else:
        moment = time.strftime("%H:%M:%S", time.localtime(message.sent_at))
        click.echo(f"{moment} {message.sender[:8]}: {printable(show_bytes(message.body))}")


@click.command()
@_topic
@click.option("--count", type=click.IntRange(min=1), help="End after so many messages.")
@json_option
@any_node
async def listen(client: AnyNode, topic: str, count: int | None, form: str) -> None:
    """Print messages as they come.

    One line each. JSON gives the body as text, null where it is none, and as base64. What had come for this command
    and was not printed when it ends is gone.
    """
    left = count
    async with client.listen(topic) as messages:
        async for message in messages:
            _show(message, form)
            if left is not None and isinstance(message, Message):
                left -= 1
                if left == 0:
                    return
