"""int8 on this processor's onnxruntime: what a bundle holds, beside other forms of the same numbers and float32.

    python benchmarks/int8_on_cpu.py INT8_BUNDLE [--float32 FLOAT32_BUNDLE] [--rounds 15]

For each form: whether the engine computes what the file says (computed operator by operator, without optimization), and
the time of a run on one thread, as the ratio to the unsigned form in the same round (median, and the range over the
rounds). `valgrind --tool=none python benchmarks/...` shows the first part for a processor with AVX2 and without VNNI.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from edgelung.boards import describe_processor
from edgelung.bundle import open_bundle
from edgelung.converters.targets.unsigned import overflowing_operators

UNSIGNED = "unsigned (what bundles hold)"


def session(path: Path, *, optimised: bool = True, **entries: str) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    if not optimised:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in entries.items():
        settings.add_session_config_entry(f"session.{name}", value)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def signed(path: Path, target: Path) -> Path:
    """The file with signed numbers, as onnxruntime's quantiser and QAT exports have them."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.UINT8:
            numbers = (numpy_helper.to_array(tensor).astype(np.int16) - 128).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    for value in model.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            value.type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, target)
    return target


def run(engine: onnxruntime.InferenceSession, tensor: np.ndarray) -> np.ndarray:
    return engine.run(None, {engine.get_inputs()[0].name: tensor})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with an int8 artefact for onnxruntime")
    parser.add_argument("--float32", type=Path, help="bundle with a float32 artefact of the same network")
    parser.add_argument("--rounds", type=int, default=15, help="0 leaves the times out")
    args = parser.parse_args()
    from edgelung.runtime.preprocess import prepare_stack

    with tempfile.TemporaryDirectory() as folder, open_bundle(args.bundle) as bundle:
        (name,) = bundle.manifest.networks
        path = bundle.path(bundle.artefact(name, "onnxruntime"))
        stack, _ = bundle.golden(name)[0]
        tensor = prepare_stack(stack, bundle.manifest.networks[name].input)
        old = signed(path, Path(folder) / "signed.onnx")
        forms = {
            UNSIGNED: session(path),
            "signed": session(old),
            "signed, qdqisint8allowed": session(old, qdqisint8allowed="1"),
        }
        said = run(session(path, optimised=False), tensor)
        if args.float32 is not None:
            with open_bundle(args.float32) as other:
                (name,) = other.manifest.networks
                forms["float32"] = session(other.path(other.artefact(name, "onnxruntime")))
        print(describe_processor())
        print(f"operators that can overflow in the signed form: {len(overflowing_operators(onnx.load(old)))}")
        spread = float(said.std())
        for form, engine in forms.items():
            if form != "float32":
                off = np.abs(run(engine, tensor) - said)
                print(f"{form:30} off by {off.mean() / spread:.4f} of the spread on average")
        times: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(args.rounds):
            for form, engine in forms.items():
                start = time.process_time()
                run(engine, tensor)
                times[form].append(time.process_time() - start)
        for form, seconds in times.items() if args.rounds else ():
            ratios = [one / base for one, base in zip(seconds, times[UNSIGNED], strict=True)]
            middle = statistics.median(ratios)
            print(f"{form:30} {middle:.2f} ({min(ratios):.2f} .. {max(ratios):.2f}) times the unsigned form's time")


if __name__ == "__main__":
    main()
