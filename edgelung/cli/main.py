"""The command line's frame: the group of commands, and errors as one line with an exit code."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

import click

from edgelung import __version__
from edgelung.cli.convert import convert
from edgelung.cli.inspect import inspect
from edgelung.cli.perf import perf
from edgelung.cli.phantom import phantom
from edgelung.cli.report import report
from edgelung.cli.run import run
from edgelung.cli.toolkit import toolkit
from edgelung.cli.train import train
from edgelung.errors import EdgelungError

__all__ = ["edgelung", "run_convert", "run_edgelung", "run_perf"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgelung")
def edgelung() -> None:
    """Lung-imaging networks from a PyTorch checkpoint to an RK3588 board.

    \b
    On the host:   edgelung convert unet.pt --output unet.bundle
    On the board:  edgelung run scan.mhd --bundle unet.bundle --output out
                   edgelung perf unet.bundle

    Every command has its own --help. Exit codes: 0 done, 2 wrong usage, 3 unusable input, 4 bundle, 5 and 6 engine,
    7 and 8 conversion, 9 verification, 130 interrupted.
    """


for _command in (convert, inspect, perf, phantom, report, run, toolkit, train):
    edgelung.add_command(_command)


def run_edgelung() -> NoReturn:
    """Entry point of ``edgelung``."""
    _run(edgelung, "edgelung")


def run_convert() -> NoReturn:
    """Entry point of ``edgelung-convert``."""
    _run(convert, "edgelung-convert")


def run_perf() -> NoReturn:
    """Entry point of ``edgelung-perf``."""
    _run(perf, "edgelung-perf")


def _run(command: click.Command, name: str) -> NoReturn:
    try:
        command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except EdgelungError as error:
        line = " ".join(str(error).split())
        if "--json" in sys.argv:
            report = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
            click.echo(json.dumps({"error": report}))
        click.echo(f"error: {line}", err=True)
        sys.exit(error.exit_code)
    sys.exit(0)
