"""The verbs: load, probe, judge; purify, verify, write; train, inspect, write. The gate stands behind each."""

from bdscan.facts.deadline import OutOfTime
from bdscan.gate.apply import GateOptions, apply_gate
from bdscan.pipeline.inspect import inspect
from bdscan.pipeline.options import Options, PurifyOptions, TrainOptions
from bdscan.pipeline.probing import select
from bdscan.pipeline.purify import purify
from bdscan.pipeline.train import train

__all__ = [
    "GateOptions",
    "Options",
    "OutOfTime",
    "PurifyOptions",
    "TrainOptions",
    "apply_gate",
    "inspect",
    "purify",
    "select",
    "train",
]
