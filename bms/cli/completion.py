"""`bms completion bash|zsh|fish`: the script that lets a shell complete the command line of `bms`.

The script calls `bms` itself, with `_BMS_COMPLETE` in its environment (click's protocol), so what is offered is always
what this version has: commands with their first line of help, options, choices, files. Commands and options of the top
are answered from the table in `program`, others by loading the one command that is being typed.

Words that peers chose, names of nodes and keys, are deliberately not offered: a shell puts what is completed on the
command line as it is, and a key may be called `; rm -r ~`.
"""

from __future__ import annotations

import click

from .program import LazyGroup

__all__ = ["VARIABLE", "completion"]

VARIABLE = "_BMS_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    bash   echo 'eval "$(bms completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(bms completion zsh)"' >> ~/.zshrc      (after compinit)
    fish   bms completion fish > ~/.config/fish/completions/bms.fish
    """
    from click.shell_completion import get_completion_class

    kind, root = get_completion_class(shell), context.find_root().command
    assert kind is not None
    assert isinstance(root, LazyGroup)
    click.echo(kind(root, {}, "bms", VARIABLE).source())
