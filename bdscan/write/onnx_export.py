"""The cleaned net as an ONNX file of its own, for `--onnx`."""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from bdscan.facts.problem import Problem, unusable
from bdscan.load.onnx import rebuild
from bdscan.net.classifier import Classifier
from bdscan.write.reread import compare
from bdscan.write.targets import EXPORTER, NO_EXPORTER
from bdscan.write.tensors_file import origin


def export(place: Path, cleaned: Classifier, sha256: str) -> list[str]:
    """The owner's net without our normalisation, for any number of images at once; checked before it counts."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError:
        raise unusable(NO_EXPORTER, EXPORTER) from None
    model = _exported(cleaned)
    for key, value in origin(sha256).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    with place.open("xb") as file:
        file.write(model.SerializeToString(deterministic=True))
    return _compared(place, cleaned)


def _exported(cleaned: Classifier) -> onnx.ModelProto:  # type: ignore[name-defined]  # noqa: F821
    net = copy.deepcopy(cleaned.net.net).cpu()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's talk about itself is nothing to tell a user
        try:
            program = torch.onnx.export(
                net,
                (torch.zeros(2, *cleaned.shape),),
                dynamo=True,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().partition("\n")[0]
            raise Problem(f"torch cannot export this net to ONNX: {reason}", hint="leave `--onnx` out") from error
    assert program is not None
    return program.model_proto


def _compared(place: Path, cleaned: Classifier) -> list[str]:
    try:
        net = rebuild(place).net
    except Problem as problem:  # what our reader cannot rebuild may still be sound ONNX
        return [f"the ONNX export was checked in form, but not run: {problem.message}"]
    compare(net, cleaned, 0.0)
    return []
