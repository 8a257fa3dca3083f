"""The import order as data, and a checker that reads source files without importing them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

# Left may import right, never the reverse (docs/design.md). A module belongs to the longest prefix that fits.
ROOMS = (
    ("edgelung.cli",),
    ("edgelung.converters",),
    ("edgelung.calibration",),
    ("edgelung.runtime",),
    ("edgelung.boards",),
    ("edgelung.bundle",),
    ("edgelung.spec", "edgelung.volume"),
    ("edgelung._codec",),
    ("edgelung.errors",),
    ("edgelung",),
)
CONVERTER_ROOMS = (
    ("edgelung.converters",),  # the door
    ("edgelung.converters.convert",),
    ("edgelung.converters.report",),
    ("edgelung.converters.artefacts",),
    ("edgelung.converters.sensitivity",),
    ("edgelung.converters.retrain",),
    ("edgelung.converters.workspace",),
    ("edgelung.converters.rehearsal",),
    ("edgelung.converters.stages",),
    ("edgelung.converters.original",),
    ("edgelung.converters.loading",),
    ("edgelung.converters.own_network",),
    ("edgelung.converters.slabs",),
    ("edgelung.converters.recipe_file",),
    ("edgelung.converters.recipe",),
    ("edgelung.converters.record",),
    ("edgelung.converters.fidelity",),
    ("edgelung.converters.tiling",),
    ("edgelung.converters.verify",),
    ("edgelung.converters.retraining",),
    ("edgelung.converters.quantisation",),
    ("edgelung.converters.targets",),
    ("edgelung.converters.device",),
    ("edgelung.converters.toolkit",),
    ("edgelung.converters.training",),
    ("edgelung.converters.tasks",),
    ("edgelung.converters.pruning",),
    ("edgelung.converters.evaluation",),
    ("edgelung.converters.datasets",),
    ("edgelung.converters.passes",),
    ("edgelung.converters.one_output",),
    ("edgelung.converters.spec_file", "edgelung.converters.checkpoint", "edgelung.converters.architecture"),
    ("edgelung.converters.models",),
    ("edgelung.converters.durable",),
    ("edgelung.converters.route",),
)
# Where a library other than numpy may be imported.
LIBRARIES = {
    "click": ("edgelung.cli",),
    "onnxruntime": (
        "edgelung.runtime.backends.onnxruntime",
        "edgelung.converters.verify",
        "edgelung.converters.targets.onnx_int8",
    ),
    "rknn": ("edgelung.converters.toolkit.worker",),
    "rknnlite": ("edgelung.runtime.backends.rknn",),
    "pydicom": ("edgelung.runtime.readers",),
    "imagecodecs": ("edgelung.runtime.readers",),
    "scipy": ("edgelung.calibration", "edgelung.converters"),
    "torch": ("edgelung.converters",),
    "torch_pruning": ("edgelung.converters.pruning",),
    "lightning_fabric": ("edgelung.converters.training", "edgelung.converters.retraining"),
    "onnx": ("edgelung.converters",),
    "onnxsim": ("edgelung.converters",),
    "monai": ("edgelung.converters",),
    "safetensors": ("edgelung.converters",),
    "tomli": ("edgelung.converters",),
    "tomllib": ("edgelung.converters",),  # not in the standard library of Python 3.10
    "SimpleITK": ("edgelung.converters",),
    "cv2": ("edgelung.converters",),
    "matplotlib": ("edgelung.converters",),
}


def violations(root: Path) -> list[str]:
    """Every import below ``root`` (the folder of the package) that breaks the order, as `file:line: reason`."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for line, imported in _imports(ast.parse(path.read_text()), module, path.name == "__init__.py"):
            reason = _reason(module, imported)
            if reason:
                found.append(f"{path.relative_to(root.parent)}:{line}: {reason}")
    return found


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            # `from package import module` may name modules: each is judged by its full name.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _reason(module: str, imported: str) -> str:
    library = imported.split(".")[0]
    if library == "edgelung":
        for rooms in (ROOMS, CONVERTER_ROOMS):
            own, other = _room(module, rooms), _room(imported, rooms)
            if own is not None and other is not None and other < own:
                return f"{module} must not import {imported}"
        return ""
    if library in sys.stdlib_module_names or library == "numpy":
        return ""
    if not any(_within(module, place) for place in LIBRARIES.get(library, ())):
        return f"{library} does not belong in {module}"
    return ""


def _room(module: str, rooms: tuple[tuple[str, ...], ...]) -> int | None:
    fits = [(len(name), -index) for index, names in enumerate(rooms) for name in names if _within(module, name)]
    return -max(fits)[1] if fits else None


def _within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")
