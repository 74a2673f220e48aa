"""SEMI, its controls and its baselines behind one interface (METHOD section 5)."""

from __future__ import annotations

from pipeline.adaptation.methods.base import Method, MethodContext, TrainedMethod, count_parameters, fit_together
from pipeline.adaptation.methods.build import build_methods
from pipeline.adaptation.methods.semi import SemiMethod
from pipeline.adaptation.methods.trained import TrainedProjectorMethod

__all__ = [
    "Method",
    "MethodContext",
    "SemiMethod",
    "TrainedMethod",
    "TrainedProjectorMethod",
    "build_methods",
    "count_parameters",
    "fit_together",
]
