"""Recipes as TOML: read from a file, and written down so that the same conversion can be made again."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any, Final

from edgelung._codec import from_json, to_json
from edgelung.converters.recipe import Recipe
from edgelung.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = ["learning_options", "read_recipe", "shaping_options", "write_recipe"]

MAX_FILE_BYTES: Final = 1 << 16
HINT: Final = "docs/convert.md explains every key"
# What belongs to one run: where things lie (names of files and folders can name a patient), and how the run is made.
_OF_ONE_RUN: Final = frozenset(("source", "output", "spec", "data", "overwrite", "resume", "keep_failing", "scan"))
# What is done with a network that has learnt.
_OF_COMPILING: Final = frozenset(("targets", "precision", "ptq", "toolkit", "verification_slabs"))
_NEEDS_DATA: Final = "needs_data"
_LEFT_BY_JSON: Final = re.compile(r"[\x7f-\x9f]")


def _document() -> type:
    """A dataclass of what a file may hold: the options of :class:`Recipe` that shape a result, none required."""
    hints = typing.get_type_hints(Recipe)
    options: list[tuple[str, Any, Any]] = [
        (item.name, hints[item.name], dataclasses.field(default=item.default))
        for item in dataclasses.fields(Recipe)
        if item.name not in _OF_ONE_RUN
    ]
    options.append((_NEEDS_DATA, bool, dataclasses.field(default=False)))
    return dataclasses.make_dataclass("recipe", options, frozen=True)


_Document: Any = _document()


def shaping_options(recipe: Recipe) -> dict[str, Any]:
    """The options that shape the result, as JSON data: no paths, and none that are None."""
    return {name: value for name, value in to_json(recipe).items() if name not in _OF_ONE_RUN}


def learning_options(recipe: Recipe) -> dict[str, Any]:
    """The options that shape what a network learns, likewise; what it is compiled to, and verified on, are not.

    Of the target and the arithmetic there is what they decide: by how many channels a network is pruned, and whether
    and for what it is restructured.
    """
    options = {name: value for name, value in shaping_options(recipe).items() if name not in _OF_COMPILING}
    form = recipe.route.precision if recipe.restructures else ""
    return {**options, "round_to": recipe.channel_block, "restructure": form}


def write_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, defaults included, in the order of its options.

    The checkpoint, the spec file, the data and the output are not in it, neither path nor name; ``needs_data`` says
    whether there were data.
    """
    options = {**shaping_options(recipe), _NEEDS_DATA: recipe.data is not None}
    return "".join(f"{name} = {_toml(value)}\n" for name, value in options.items())


def read_recipe(path: Path | str, **overrides: Any) -> Recipe:
    """Read a recipe from a TOML file.

    Args:
        path: The file; a key that is missing has the default of :class:`Recipe`.
        overrides: ``source`` and ``output``, and options that win over the file.

    Raises:
        InputError: Naming the file and the key that does not fit, or the parts of the recipe that contradict.
    """
    content = _read_toml(Path(path), str(path))
    try:
        document = from_json(_Document, content, "recipe")
    except ValueError as error:
        where, _, problem = str(error).partition(": ")
        key = where.removeprefix("recipe").removeprefix(".")
        belongs = next((name for name in content if name in _OF_ONE_RUN), None)
        hint = f"give --{belongs.replace('_', '-')} on the command line" if belongs and not key else HINT
        raise InputError(problem, source=path, field=key, hint=hint) from None
    options = {name: getattr(document, name) for name in content}
    if options.pop(_NEEDS_DATA, False) and overrides.get("data") is None:
        problem = "was made with CTs, without them it would be another network"
        raise InputError(problem, source=path, field=_NEEDS_DATA, hint="add --data, or set it to false to use phantoms")
    return Recipe(**{**options, **overrides})


def _toml(value: bool | int | float | str | list[Any]) -> str:
    """TOML writes such values as JSON does, but for the control characters that JSON leaves as they are."""
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _read_toml(file: Path, source: str) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", source=source, hint="check the path") from None
    if len(raw) > MAX_FILE_BYTES:
        raise InputError("is larger than 64 KiB, so it is no recipe", source=source, hint=HINT)
    try:
        document: dict[str, Any] = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"is not valid TOML: {error}", source=source, hint=HINT) from None
    return document
