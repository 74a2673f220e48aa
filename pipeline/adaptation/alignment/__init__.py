"""Closed-form maps from an encoder's space to text space, fitted to a support set (METHOD section 5)."""

from __future__ import annotations

from pipeline.adaptation.alignment.base import TextMap, fold_text_map
from pipeline.adaptation.alignment.cca import fit_cca
from pipeline.adaptation.alignment.procrustes import fit_procrustes
from pipeline.adaptation.alignment.ridge import fit_ridge

__all__ = ["TextMap", "fit_cca", "fit_procrustes", "fit_ridge", "fold_text_map"]
