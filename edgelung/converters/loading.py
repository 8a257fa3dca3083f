"""The network that a recipe names, read and described."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgelung.converters.architecture import load_factory
from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import get_model_entry
from edgelung.converters.recipe import Recipe
from edgelung.converters.record import ConversionRecord
from edgelung.converters.spec_file import read_spec
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.converters.verify import onnx_function, torch_function
from edgelung.errors import InputError

__all__ = ["load_network"]


def load_network(recipe: Recipe) -> ConversionRecord:
    """Read the checkpoint or the ready graph of a recipe.

    Raises:
        InputError: For a checkpoint, factory or spec that cannot be used.
    """
    if recipe.source.suffix == ".onnx":
        return _load_onnx(recipe)
    loaded = load_state_dict(recipe.source)
    if recipe.arch:
        model = load_factory(recipe.arch)()
        spec = read_spec(_required(recipe.spec))
        name, architecture = "network", recipe.arch
    else:
        entry = get_model_entry(recipe.model)
        model = entry.build_from_state(loaded.state)
        spec = nodule_segmentation_spec(*recipe.plane, geometry=entry.geometry(model))
        name = architecture = entry.name
    apply_state(model, loaded.state, loaded.source)
    model.eval()
    record = ConversionRecord(
        name=name,
        architecture=architecture,
        spec=spec,
        reference=torch_function(model),
        reference_quantity=spec.output.quantity,
        source_sha256=loaded.sha256,
        source_format=loaded.format,
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        model=model,
    )
    return record.after("read", f"{architecture}, {record.parameters} parameters, from a {loaded.format} checkpoint")


def _load_onnx(recipe: Recipe) -> ConversionRecord:
    spec = read_spec(_required(recipe.spec))
    try:
        content = recipe.source.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", source=recipe.source, hint="check the path") from None
    return ConversionRecord(
        name="network",
        architecture="onnx",
        spec=spec,
        reference=lambda tensor: onnx_function(recipe.source)(tensor),  # opened after the file was checked
        reference_quantity=spec.output.quantity,
        source_sha256=hashlib.sha256(content).hexdigest(),
        source_format="onnx",
        parameters=0,
        graph=recipe.source,
    ).after("read", "a ready ONNX model")


def _required(spec: Path | None) -> Path:
    if spec is None:
        raise InputError("a spec file is needed", field="spec", hint="add --spec FILE.toml")
    return spec
