"""Help of a command with many options, in groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["GroupedCommand", "group"]

F = TypeVar("F", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option with the heading under which help shows it."""

    def __init__(self, *args: Any, heading: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heading = heading


def group(heading: str) -> Callable[..., Callable[[F], F]]:
    """`click.option` for the options under one heading."""

    def option(*names: str, **options: Any) -> Callable[[F], F]:
        return click.option(*names, cls=GroupedOption, heading=heading, **options)

    return option


class GroupedCommand(click.Command):
    """A command whose help lists options under their headings, in the order in which they were declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options into the help."""
        groups: dict[str, list[tuple[str, str]]] = {}
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        for option in sorted(options, key=lambda option: not isinstance(option, GroupedOption)):  # --help comes last
            record = option.get_help_record(ctx)
            if record is not None:
                heading = option.heading if isinstance(option, GroupedOption) else "Help"
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)
