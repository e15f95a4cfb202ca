"""The verbs, in order: load, probe, judge; purify, verify, write."""

from bdscan.pipeline.inspect import inspect, select
from bdscan.pipeline.purify import Cure, purify
from bdscan.pipeline.runner import Options, OutOfTime

__all__ = ["Cure", "Options", "OutOfTime", "inspect", "purify", "select"]
