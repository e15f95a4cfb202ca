"""The verbs, in order: load, probe, judge; purify, verify, write; train, inspect, write."""

from bdscan.pipeline.inspect import inspect
from bdscan.pipeline.options import Options, PurifyOptions, TrainOptions
from bdscan.pipeline.probing import select
from bdscan.pipeline.purify import purify
from bdscan.pipeline.runner import OutOfTime
from bdscan.pipeline.train import train

__all__ = ["Options", "OutOfTime", "PurifyOptions", "TrainOptions", "inspect", "purify", "select", "train"]
