"""The registry: how each configured method is built.

In: the context.  Out: methods by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.adaptation.alignment import fit_cca, fit_procrustes, fit_ridge
from pipeline.adaptation.methods.aligned import AlignedInitMethod, AlignedMethod, FitMap
from pipeline.adaptation.methods.base import Method, MethodContext
from pipeline.adaptation.methods.copying import ConstantMethod, KnnCopyMethod, RetrievalIclMethod
from pipeline.adaptation.methods.probe import LinearProbeMethod
from pipeline.adaptation.methods.semi import (
    AverageAdapterMethod,
    Control,
    OtherSupport,
    SemiMethod,
    random_embeddings,
)
from pipeline.adaptation.methods.trained import LimberMethod, RandomLoraMethod, TrainedProjectorMethod
from pipeline.adaptation.support import shuffle_texts
from pipeline.config.schema import FinetuneConfig, MethodName

Build = Callable[[MethodContext], Method]


def build_methods(context: MethodContext) -> dict[MethodName, Method]:
    """The configured methods, in order."""
    return {name: _BUILDERS[name](context) for name in context.config.evaluate.methods}


def _semi(context: MethodContext, control: Control | None = None, *, tuned: bool = True) -> SemiMethod:
    integrate = context.config.integrate
    return SemiMethod(
        semi=context.semi,
        llm=context.llm,
        finetuning=integrate.finetune if tuned else FinetuneConfig(steps=0),
        chunk=integrate.chunk,
        control=control,
    )


def _average_adapter(context: MethodContext) -> AverageAdapterMethod:
    return AverageAdapterMethod(
        semi=context.semi,
        llm=context.llm,
        chunk=context.config.integrate.chunk,
        training_supports=context.training_supports,
    )


def _trained(context: MethodContext, *, from_scratch: bool) -> TrainedProjectorMethod:
    evaluate = context.config.evaluate
    return TrainedProjectorMethod(
        projector=context.pretrained,
        from_scratch=from_scratch,
        llm=context.llm,
        finetuning=evaluate.scratch if from_scratch else evaluate.finetuned_projector,
    )


def _limber(context: MethodContext) -> LimberMethod:
    evaluate = context.config.evaluate
    return LimberMethod(
        projector=context.pretrained,
        soft_tokens=evaluate.limber_soft_tokens,
        llm=context.llm,
        finetuning=evaluate.limber,
    )


def _random_lora(context: MethodContext) -> RandomLoraMethod:
    return RandomLoraMethod(
        projector=context.pretrained,
        semi=context.semi,
        chunk=context.config.integrate.chunk,
        llm=context.llm,
        finetuning=context.config.evaluate.random_lora,
    )


def _aligned(context: MethodContext, fit_map: FitMap, *, tuned: bool) -> Method:
    if not tuned:
        return AlignedMethod(fit_map=fit_map, pretrained=context.pretrained, llm=context.llm)
    budget = context.config.evaluate.aligned_init
    return AlignedInitMethod(fit_map=fit_map, pretrained=context.pretrained, llm=context.llm, finetuning=budget)


def _ridge(context: MethodContext, *, tuned: bool = False) -> Method:
    return _aligned(context, partial(fit_ridge, penalties=context.config.evaluate.ridge_penalties), tuned=tuned)


def _procrustes(context: MethodContext, *, tuned: bool = False) -> Method:
    dimensions = context.config.evaluate.alignment_dimensions
    return _aligned(context, partial(fit_procrustes, dimensions=dimensions), tuned=tuned)


def _cca(context: MethodContext, *, tuned: bool = False) -> Method:
    evaluate = context.config.evaluate
    fit_map = partial(fit_cca, penalties=evaluate.ridge_penalties, dimensions=evaluate.alignment_dimensions)
    return _aligned(context, fit_map, tuned=tuned)


_BUILDERS: dict[MethodName, Build] = {
    "semi": _semi,
    "semi_shuffled_text": lambda context: _semi(context, shuffle_texts),
    "semi_random_embeddings": lambda context: _semi(context, random_embeddings),
    "semi_other_support": lambda context: _semi(context, OtherSupport(training_supports=context.training_supports)),
    "average_adapter": _average_adapter,
    "semi_no_finetune": partial(_semi, tuned=False),
    "scratch": partial(_trained, from_scratch=True),
    "limber": _limber,
    "finetuned_projector": partial(_trained, from_scratch=False),
    "random_lora": _random_lora,
    "ridge": _ridge,
    "procrustes": _procrustes,
    "cca": _cca,
    "ridge_init": partial(_ridge, tuned=True),
    "procrustes_init": partial(_procrustes, tuned=True),
    "cca_init": partial(_cca, tuned=True),
    "retrieval_icl": lambda context: RetrievalIclMethod(llm=context.llm, settings=context.config.evaluate.retrieval),
    "knn_1": lambda _: KnnCopyMethod(neighbours=1),
    "knn_3": lambda _: KnnCopyMethod(neighbours=3),
    "knn_5": lambda _: KnnCopyMethod(neighbours=5),
    "constant": lambda _: ConstantMethod(),
    "linear_probe": lambda _: LinearProbeMethod(),
}
