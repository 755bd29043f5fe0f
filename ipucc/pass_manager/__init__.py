"""Passes, pipelines as text, and running them. Importing this loads neither onnx nor numpy."""

from ipucc.pass_manager.base import OptionValue, Pass, PassContext, option
from ipucc.pass_manager.dump import DumpFolder
from ipucc.pass_manager.options import OptionInfo, describe_options, make_pass
from ipucc.pass_manager.pipeline import (
    DEFAULT_PASSES,
    DEFAULT_PIPELINE,
    Pipeline,
    Repeat,
    format_pipeline,
    format_step,
    parse_pipeline,
)
from ipucc.pass_manager.registry import Registry, default_registry, summary
from ipucc.pass_manager.run import PassEvent, PassTiming, PipelineResult, count_nodes, run_pipeline

__all__ = [
    "DEFAULT_PASSES",
    "DEFAULT_PIPELINE",
    "DumpFolder",
    "OptionInfo",
    "OptionValue",
    "Pass",
    "PassContext",
    "PassEvent",
    "PassTiming",
    "Pipeline",
    "PipelineResult",
    "Registry",
    "Repeat",
    "count_nodes",
    "default_registry",
    "describe_options",
    "format_pipeline",
    "format_step",
    "make_pass",
    "option",
    "parse_pipeline",
    "run_pipeline",
    "summary",
]
