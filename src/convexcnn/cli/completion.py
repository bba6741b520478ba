"""`convexcnn completion`: let a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from convexcnn.cli.options import output_options

WHERE = {
    "bash": "~/.bashrc",
    "zsh": "~/.zshrc",
    "fish": "~/.config/fish/completions/convexcnn.fish",
}


@click.command(name="completion", short_help="Print what lets your shell complete commands.")
@click.argument("shell", type=click.Choice(list(WHERE)))
@output_options
def command(shell: str, *, as_json: bool) -> None:
    """Print the lines that let SHELL complete commands, options and their values.

    \b
    bash:  convexcnn completion bash >> ~/.bashrc
    zsh:   convexcnn completion zsh >> ~/.zshrc
    fish:  convexcnn completion fish > ~/.config/fish/completions/convexcnn.fish
    """
    from convexcnn.cli.application import cli
    from convexcnn.cli.console import Console

    console = Console(as_json=as_json)
    kind = get_completion_class(shell)
    assert kind is not None
    # Not .source(), which first starts bash to see whether it is new enough.
    completion = kind(cli, {}, "convexcnn", "_CONVEXCNN_COMPLETE")
    script = completion.source_template % completion.source_vars()
    console.show(script)
    console.note(f"For {WHERE[shell]}; takes effect in a new shell.")
    console.result({"shell": shell, "script": script, "file": WHERE[shell]})
