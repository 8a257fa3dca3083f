"""The network that a recipe names, read and described."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from edgelung.bundle import is_bundle, open_bundle
from edgelung.converters.architecture import load_factory
from edgelung.converters.checkpoint import LoadedState, apply_state, load_state_dict, match_keys
from edgelung.converters.models import ModelEntry, get_model_entry
from edgelung.converters.one_output import OPTION, settle_output
from edgelung.converters.own_network import build_own_network, describe_weights
from edgelung.converters.recipe import Recipe
from edgelung.converters.record import ConversionRecord
from edgelung.converters.spec_file import read_spec
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.converters.verify import onnx_function, torch_function
from edgelung.errors import InputError

__all__ = ["load_network"]

ARCHITECTURE_HINT = "name its architecture with --model, or with --arch and --spec; or give another bundle"


def load_network(recipe: Recipe, note: Callable[[str], None] | None = None) -> ConversionRecord:
    """Read the checkpoint, the ready graph or the bundle with weights of a recipe.

    Args:
        recipe: Names them.
        note: Called with what was done to network and weights to bring them together, if anything was.

    Raises:
        InputError: For a checkpoint, factory or spec that cannot be used.
        ConversionError: For a network that does not run.
    """
    if recipe.is_ready_graph:
        return _load_onnx(recipe)
    loaded = _load_weights(recipe)
    if recipe.arch:
        spec = read_spec(_required(recipe.spec))
        model, changes = build_own_network(load_factory(recipe.arch), loaded, spec.input)
        name, architecture = "network", recipe.arch
    else:
        entry = get_model_entry(recipe.model)
        model, changes = _build_known(entry, loaded)
        spec = nodule_segmentation_spec(*recipe.plane, geometry=entry.geometry(model))
        name = architecture = entry.name
    model.eval()
    chosen = settle_output(model, spec, recipe.output_key)
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
    if changes and note is not None:
        note(f"network: {'; '.join(changes)}")
    if chosen and note is not None:
        note(f"{OPTION}: {chosen}")
    read = f"{architecture}, {record.parameters} parameters, from a {loaded.format} checkpoint"
    return record.after("read", "; ".join((read, *changes, *([chosen] if chosen else []))))


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
        reference=lambda tensor: onnx_function(recipe.source, recipe.output_key)(
            tensor
        ),  # opened after the file was checked
        reference_quantity=spec.output.quantity,
        source_sha256=hashlib.sha256(content).hexdigest(),
        source_format="onnx",
        parameters=0,
        graph=recipe.source,
        graph_output=recipe.output_key,
    ).after("read", "a ready ONNX model")


def _load_weights(recipe: Recipe) -> LoadedState:
    """The weights of a checkpoint, or those that a bundle holds of the same architecture."""
    source = recipe.source
    if not is_bundle(source):
        return load_state_dict(source, recipe.weights)
    if recipe.weights is not None:
        raise InputError("a bundle has one network", field="weights", hint="leave it out")
    with open_bundle(source) as bundle:
        networks = [network for network in bundle.manifest.networks.values() if network.weights is not None]
        if len(networks) != 1 or networks[0].weights is None:
            hint = "only bundles made with --prune or --qat do; give the checkpoint it was made from"
            raise InputError("the bundle holds no weights", source=source, hint=hint)
        architecture, wanted = networks[0].architecture, recipe.arch or recipe.model
        if architecture != wanted:  # what a bundle names is never imported: the user says which code to run
            raise InputError(f"the bundle holds {architecture}, not {wanted}", source=source, hint=ARCHITECTURE_HINT)
        return replace(load_state_dict(bundle.path(networks[0].weights)), source=str(source))


def _build_known(entry: ModelEntry, loaded: LoadedState) -> tuple[nn.Module, tuple[str, ...]]:
    """A network of the registry with the weights, and in words what was done to them."""
    matched = match_keys(loaded, entry.build_default().state_dict(), by_first_name=True)
    model = entry.build_from_state(matched.state)
    apply_state(model, matched.state, loaded.source)
    return model, describe_weights(loaded, matched)


def _required(spec: Path | None) -> Path:
    if spec is None:
        raise InputError("a spec file is needed", field="spec", hint="add --spec FILE.toml")
    return spec
