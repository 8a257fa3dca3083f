"""The compiled forms of one network: built, verified against the original, and described for the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from edgelung._codec import to_json
from edgelung.boards import describe_processor
from edgelung.bundle import Artefact, BundleWriter, FidelityRow, LayerCounts
from edgelung.converters.fidelity import find_ways_out, require_fidelity
from edgelung.converters.recipe import HOST, Recipe
from edgelung.converters.record import ConversionRecord
from edgelung.converters.route import Precision
from edgelung.converters.sensitivity import choose_float_tensors
from edgelung.converters.slabs import Slabs
from edgelung.converters.stages import Answers, check_artefact, run_on_host
from edgelung.converters.targets.onnx_int8 import quantise_onnx
from edgelung.converters.targets.onnxruntime import OnnxFile
from edgelung.converters.targets.rknn import build_rknn, count_layers, estimate_latency
from edgelung.converters.targets.unsigned import write_unsigned
from edgelung.converters.toolkit import ToolkitEnvironment

__all__ = ["ArtefactMaker"]

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ArtefactMaker:
    """Makes the artefacts of one conversion.

    Attributes:
        writer: Of the bundle.
        recipe: What was asked for.
        record: The network, exported.
        graph: Its float32 ONNX file.
        slabs: What ranges are fitted to and everything is verified on.
        answers: What the original says to those.
        work: Folder for what does not enter the bundle.
    """

    writer: BundleWriter
    recipe: Recipe
    record: ConversionRecord
    graph: OnnxFile
    slabs: Slabs
    answers: Answers
    work: Path

    def host(self) -> Artefact:
        """The artefact for onnxruntime: of the route's precision if it is a target, float32 otherwise.

        Raises:
            ConversionError: When it cannot be made.
            VerificationError: When it misses a limit and the recipe does not keep what does.
        """
        trained = self.record.rounding is not None  # then the network itself is int8
        wanted = self.recipe.route.precision if HOST in self.recipe.targets or trained else "fp32"
        precision: Precision = "int8" if wanted == "int8" else "fp32"
        name = self._name("onnxruntime", precision, "onnx")
        path = self.writer.stage_file(name)
        file = self.graph
        if trained:
            file = write_unsigned(onnx.load(self.graph.path), path)
        elif precision == "int8":
            file = quantise_onnx(self.graph.path, self.record.spec.input.tensor.name, self.slabs.fit, path)
        else:
            shutil.copyfile(self.graph.path, path)
        slices = self.record.spec.input.packing.outputs
        (golden, *outputs), latency = run_on_host(path, [self.slabs.golden, *self.slabs.verify], slices)
        rows, tolerance = self._check("onnxruntime", precision, outputs, golden)
        total = sum(file.operators.values())
        convert = sum(file.operators.get(name, 0) for name in _QUANTISERS)
        return Artefact(
            **asdict(self.writer.add_staged(name)),
            target=HOST,
            engine="onnxruntime",
            platforms=("any",),
            precision=precision,
            golden_tolerance=tolerance,
            weight_memory_kib=file.weight_bytes / 1024,
            model_size_kib=file.size_bytes / 1024,
            layers=LayerCounts(total, npu=0, cpu=total, float16=0, convert=convert),
            latency=latency,
            fidelity=rows,
            verified=all(row.kept for row in rows),
            processor=describe_processor(),
        )

    def npu(
        self, environment: ToolkitEnvironment, note: Callable[[str], None], tick: Callable[[str], None] | None
    ) -> tuple[Artefact, ...]:
        """One artefact for each target with an NPU, from one build.

        Raises:
            ConversionError: When the toolkit fails.
            VerificationError: When what it built misses a limit and the recipe does not keep what does.
        """
        route = self.recipe.route
        float_tensors: tuple[str, ...] = ()
        if route.algorithm == "hybrid":
            float_tensors = choose_float_tensors(self.graph.path, self.record, self.slabs, self.work, tick)
            note(f"layers that stay in float16: {', '.join(float_tensors)}")
        build = build_rknn(
            self.graph.path,
            environment,
            folder=self.work / "npu",
            algorithm=route.algorithm,
            fit=self.slabs.fit,
            simulate=[self.slabs.golden, *self.slabs.verify],
            float_tensors=float_tensors,
            progress=tick,
        )
        golden, *outputs = build.outputs
        rows, tolerance = self._check("rknn", route.precision, outputs, golden)
        artefacts = []
        for target in self.recipe.npu_targets:
            name = self._name(target, route.precision, "rknn")
            shutil.copyfile(build.path, self.writer.stage_file(name))
            table = self._name(target, route.precision, "layers.json")
            self.writer.stage_file(table).write_text(json.dumps(to_json(build.layers), indent=1) + "\n")
            file = self.writer.add_staged(name)
            artefacts.append(
                Artefact(
                    **asdict(file),
                    target=target,
                    engine="rknn",
                    platforms=("rk3588",),
                    precision=route.precision,
                    golden_tolerance=tolerance,
                    weight_memory_kib=build.weight_memory_kib,
                    model_size_kib=file.size / 1024,
                    layers=count_layers(build.layers),
                    latency=estimate_latency(build.layers, target, self.record.spec.input.packing.outputs),
                    fidelity=rows,
                    verified=all(row.kept for row in rows),
                    layer_table=self.writer.add_staged(table),
                    processor=describe_processor(),
                )
            )
        versions = ", ".join(f"{name} {number}" for name, number in build.versions.items())
        note(f"compiled with {versions}; simulated in {build.seconds_per_slab:.2f} s per slab")
        return tuple(artefacts)

    def _check(
        self, engine: str, precision: Precision, outputs: Sequence[Array], golden: Array
    ) -> tuple[tuple[FidelityRow, ...], float]:
        rows, tolerance = check_artefact(self.record, precision, self.answers, outputs, golden, self.slabs)
        if not self.recipe.keep_failing:
            ways_out = find_ways_out(
                precision,
                npu=engine == "rknn",
                trained=self.record.rounding is not None,
                trainable=self.record.model is not None,
                has_data=self.recipe.data is not None,
            )
            require_fidelity(rows, f"{engine} {precision}", ways_out)
        return rows, tolerance

    def _name(self, target: str, precision: str, suffix: str) -> str:
        return f"networks/{self.record.name}/{target}-{precision}.{suffix}"
