"""The verbs, in order: load, probe, judge; purify, verify, write; train, inspect, write."""

from bdscan.pipeline.inspect import inspect, select
from bdscan.pipeline.purify import Cure, purify
from bdscan.pipeline.runner import Options, OutOfTime
from bdscan.pipeline.train import Training, train

__all__ = ["Cure", "Options", "OutOfTime", "Training", "inspect", "purify", "select", "train"]
