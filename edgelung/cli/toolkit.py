"""``edgelung toolkit``: the vendor's toolkit, in environments of its own."""

from __future__ import annotations

import json
from types import ModuleType

import click

from edgelung.cli.tables import format_table
from edgelung.errors import InputError


@click.group()
def toolkit() -> None:
    """Install, list and remove the vendor's toolkit (rknn-toolkit2), which compiles for the RK3588.

    It needs older libraries than edgelung, so each version lives in an environment of its own, below $EDGELUNG_HOME
    (otherwise $XDG_DATA_HOME/edgelung, otherwise ~/.local/share/edgelung).

    \b
    Examples:  edgelung toolkit install
               edgelung toolkit install 2.5.0
               edgelung toolkit list --json
               edgelung toolkit remove 2.5.0
    """


@toolkit.command()
@click.argument("version", required=False)
@click.option("--own-torch", is_flag=True, help="Install torch into it, too, instead of borrowing the one of edgelung.")
def install(version: str | None, own_torch: bool) -> None:
    """Make the environment of VERSION: 2.3.2 (the default) or 2.5.0. About 30 seconds and 730 MB.

    pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are honoured. What is installed and works is kept.

    \b
    Example:  edgelung toolkit install 2.3.2
    """
    library = _library()
    made = library.install(version or library.DEFAULT_VERSION, own_torch=own_torch, report=_report)
    click.echo(f"rknn-toolkit2 {made.version} with torch {made.torch}: ready")


@toolkit.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_installed(as_json: bool) -> None:
    """Show the installed versions and whether they can be used.

    \b
    Example:  edgelung toolkit list --json
    """
    library = _library()
    rows = [
        {
            "version": found.version,
            "python": found.python_version,
            "torch": found.torch,
            "torch_from": found.torch_from,
            "folder": str(found.folder),
            "problem": found.problem,
        }
        for found in library.installed()
    ]
    if as_json:
        click.echo(json.dumps({"default": library.DEFAULT_VERSION, "toolkits": rows}, indent=2))
    elif rows:
        cells = [(row["version"], row["torch"], row["problem"] or "ready", row["folder"]) for row in rows]
        click.echo(format_table(("version", "torch", "state", "folder"), cells))
    else:
        click.echo(f"no toolkit is installed; edgelung toolkit install {library.DEFAULT_VERSION}")


@toolkit.command()
@click.argument("version")
def remove(version: str) -> None:
    """Delete the environment of VERSION.

    \b
    Example:  edgelung toolkit remove 2.5.0
    """
    click.echo(f"removed {_library().remove(version, report=_report)}")


def _report(text: str) -> None:
    click.echo(f"... {text}", err=True)


def _library() -> ModuleType:
    """The host side, loaded late; a base install has no torch to compile anything with."""
    try:
        from edgelung.converters import toolkit as library
    except ModuleNotFoundError as error:
        hint = 'pip install "edgelung[convert]" on the host'
        raise InputError(f"the package {error.name} is not installed", hint=hint) from None
    return library
