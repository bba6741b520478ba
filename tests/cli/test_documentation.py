"""Every command and option has help and is in docs/cli.md, and the choices are the estimators'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from convexcnn.cli.application import cli

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SHARED = "Reading data"


def commands(
    group: click.Group = cli, path: str = "convexcnn"
) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(commands())


def section(title: str) -> str:
    match = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", DOCS, re.M | re.S)
    assert match, f"docs/cli.md has no section '## {title}'"
    return match[1]


def documented(text: str) -> set[str]:
    return set(re.findall(r"^\| `(--[\w-]+)", text, re.M))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert command.short_help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]} has no help"
            assert parameter.help[0].isupper(), f"{path} {parameter.opts[0]}: {parameter.help}"


@pytest.mark.parametrize("path", COMMANDS)
def test_help_names_no_file_that_is_not_installed(path: str) -> None:
    assert not re.search(r"docs/|\.md\b", COMMANDS[path].get_help(click.Context(COMMANDS[path])))


def test_the_first_advice_works_for_pictures_of_any_size() -> None:
    assert "convexcnn fit FOLDER --out runs/mine --image-size 32" in (cli.help or "")


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_is_documented_and_no_other(path: str) -> None:
    options = {
        parameter.opts[0]
        for parameter in COMMANDS[path].params
        if isinstance(parameter, click.Option)
    }
    own = documented(section(path))
    everywhere = documented(DOCS.partition(f"## {SHARED}")[0])
    shared = documented(section(SHARED)) if "(#reading-data)" in section(path) else set()
    if path == "convexcnn plan":  # which takes the settings of fit
        shared = documented(section(SHARED)) | documented(section("convexcnn fit"))
    assert everywhere == {"--json", "--debug"}
    assert own <= options, f"docs/cli.md documents options that {path} lacks"
    assert options <= own | shared | everywhere, f"docs/cli.md misses options of {path}"


def test_no_section_without_a_command() -> None:
    titles = set(re.findall(r"^## (.*)$", DOCS, re.M)) - {SHARED}
    assert titles == set(COMMANDS)


def choices(name: str) -> set[str]:
    (option,) = (p for p in COMMANDS["convexcnn fit"].params if f"--{name}" in p.opts)
    assert isinstance(option.type, click.Choice)
    return set(option.type.choices)


def test_choices_are_those_of_the_estimators() -> None:
    from convexcnn.cli.options import LARGEST_SEED
    from convexcnn.cli.settings import MODELS
    from convexcnn.models import base, gates, parameters, program_settings, stack_settings
    from convexcnn.programs.losses import LOSSES
    from convexcnn.programs.regularisers import REGULARISERS

    assert choices("model") == set(MODELS)
    assert choices("blocks") == set(stack_settings.PRESETS)
    assert choices("gates") == {*gates.STRATEGIES, *stack_settings.BLOCK_GATES}
    assert choices("loss") == set(LOSSES)
    assert choices("regulariser") == set(REGULARISERS)
    assert choices("augment") == set(base.AUGMENTATIONS)
    assert choices("formulation") == {*program_settings.FORMULATIONS, "non-convex"}
    assert LARGEST_SEED == parameters.LARGEST_SEED
    assert choices("solver") == {*program_settings.SOLVERS, "adam"}
