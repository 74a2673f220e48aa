"""SEMI, its controls and its baselines behind one interface (METHOD section 5)."""

from __future__ import annotations

from pipeline.adaptation.methods.base import Method, MethodContext, ProjectorMethod, count_parameters
from pipeline.adaptation.methods.build import build_methods
from pipeline.adaptation.methods.semi import SemiMethod
from pipeline.adaptation.methods.trained import TrainedProjectorMethod

__all__ = [
    "Method",
    "MethodContext",
    "ProjectorMethod",
    "SemiMethod",
    "TrainedProjectorMethod",
    "build_methods",
    "count_parameters",
]
