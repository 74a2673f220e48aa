"""What a sweep leaves besides its trials: the best configuration, and plots.

In: the finished trials.  Out: `best.yaml`, and PNG files of importance, parallel coordinates and the Pareto front.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.artifacts import write_text_atomic
from pipeline.config.load import override, to_yaml
from pipeline.config.schema import ExperimentConfig
from pipeline.config.space import SearchSpace
from pipeline.runtime.tune_records import TrialRecord, finished, pareto
from pipeline.runtime.tune_search import Observation, optuna_study

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"
_FEWEST_FOR_IMPORTANCE = 4
_BELOW = -0.18
"""Height of what a trial did not draw."""
_MISSING: Any = object()


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The finished trial of the highest score; of equal ones that with fewer deployed parameters."""
    whole = finished(records)
    return max(whole, key=lambda r: (r.score or 0.0, -r.results[-1]["deployed_parameters"]), default=None)


def write_best(path: Path, base: ExperimentConfig, space: SearchSpace, best: TrialRecord) -> None:
    """The user's configuration with the best trial's values, for `jobs.meta_train --config`.

    Validation modalities go back to training: choosing is over. The name stays, so that the embeddings are found.
    """
    config = override(base, {**space.fixed, **best.values, "validation": [], "evaluate.on": "held_out"})
    score = f"{space.metric} {best.score:.4f} on the validation modalities"
    write_text_atomic(path, f"# Trial {best.name}: {score}.\n{to_yaml(config)}")


def write_plots(folder: Path, records: Sequence[TrialRecord], space: SearchSpace) -> list[Path]:
    """The plots that these trials allow."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = finished(records)
    if len(whole) < 2:
        return []
    drawn = [_parallel(folder / "parallel_coordinates.png", whole, space)]
    if len({record.results[-1]["deployed_parameters"] for record in whole}) > 1:
        drawn.append(_front(folder / "pareto.png", whole, space))
    if len(whole) >= _FEWEST_FOR_IMPORTANCE:
        drawn.append(_importance(folder / "importance.png", importances(whole, space), space))
    return drawn


def importances(records: Sequence[TrialRecord], space: SearchSpace) -> dict[str, float]:
    """Share of the score's variance that each field explains (fANOVA); fields that not every trial has are left out."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    whole = finished(records)
    common = [path for path in space.space if all(path in record.values for record in whole)]
    varied = [path for path in common if len({json.dumps(record.values[path]) for record in whole}) > 1]
    scores = [record.score or 0.0 for record in whole]
    if not varied or max(scores) == min(scores):
        return dict.fromkeys(varied, 0.0)
    observed = [
        Observation(
            values={path: record.values[path] for path in varied}, scores=(score, 0.0)[: 1 + bool(space.against)]
        )
        for record, score in zip(whole, scores, strict=True)
    ]
    study = optuna_study(space, observed)
    found = optuna.importance.get_param_importances(
        study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied, target=lambda trial: trial.values[0]
    )
    return {path: float(share) for path, share in found.items()}


def _importance(path: Path, shares: dict[str, float], space: SearchSpace) -> Path:
    figure, axis = _figure(7.2, 1.4 + 0.4 * len(shares))
    names = sorted(shares, key=lambda name: shares[name])
    axis.barh(names, [shares[name] for name in names], color=_BLUE, height=0.6)
    for height, name in enumerate(names):
        axis.annotate(f" {shares[name]:.2f}", (shares[name], height), va="center", fontsize=9)
    axis.set(xlabel=f"share of the variance of {_label(space)} (fANOVA)", xlim=(0, 1.08))
    axis.set_title("Which field matters", loc="left", weight="bold")
    figure.savefig(path)
    return path


def _parallel(path: Path, whole: Sequence[TrialRecord], space: SearchSpace) -> Path:
    from matplotlib import colormaps

    axes = [name for name in space.space if any(name in record.values for record in whole)]
    figure, axis = _figure(2.4 + 1.9 * (len(axes) + 1), 4.6)
    scores = [record.score or 0.0 for record in whole]
    low, high = min(scores), max(scores)
    spread = high - low or 1.0
    places = [_scale([record.values.get(name, _MISSING) for record in whole], space, name) for name in axes]
    labels = [(share, f"{low + share * spread:.3g}") for share in ((0.0, 0.5, 1.0) if high > low else (0.0,))]
    places.append(([(score - low) / spread for score in scores], labels))
    for column, (_, texts) in enumerate(places):
        axis.axvline(column, color=_GREY, linewidth=0.8)
        for height, text in texts:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
            at = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
            axis.annotate(text, (column, height), bbox=box, zorder=4, **at)
    best = best_of(whole)
    for number in sorted(range(len(whole)), key=lambda number: scores[number]):
        line = [heights[number] for heights, _ in places]
        style: dict[str, Any] = {"linewidth": 1.2, "alpha": 0.8}
        if whole[number] is best:
            style = {"linewidth": 2.8, "zorder": 3}
        axis.plot(range(len(line)), line, color=colormaps["viridis_r"](0.1 + 0.9 * line[-1]), **style)
    axis.set_xticks(range(len(places)), [*(_two_lines(name) for name in axes), _label(space)], fontsize=9)
    lowest = min(height for heights, _ in places for height in heights)
    axis.set(yticks=[], ylim=(lowest - 0.06, 1.06), xlim=(-0.15, len(axes) + 0.45))
    axis.spines[:].set_visible(False)
    axis.set_title("Trials, the best one thick; dark is better", loc="left", weight="bold")
    figure.savefig(path)
    return path


def _front(path: Path, whole: Sequence[TrialRecord], space: SearchSpace) -> Path:
    figure, axis = _figure(7.2, 4.4)
    front = pareto(whole)
    points = {record.number: (record.results[-1]["deployed_parameters"], record.score or 0.0) for record in whole}
    axis.scatter(*zip(*points.values(), strict=True), color=_GREY, s=26, label="trial")
    line = [points[record.number] for record in front]
    axis.plot(*zip(*line, strict=True), "-o", color=_ORANGE, drawstyle="steps-post", label="Pareto front")
    for record in front:
        axis.annotate(f" {record.number:04d}", points[record.number], fontsize=8, va="bottom")
    axis.set(xlabel="deployed parameters", ylabel=_label(space))
    axis.margins(0.08)
    axis.grid(color="#DDDDDD", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, loc="lower right")
    axis.set_title("Score against what must be kept for a modality", loc="left", weight="bold")
    figure.savefig(path)
    return path


def _scale(values: Sequence[Any], space: SearchSpace, name: str) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in 0..1, and the labels of the axis; `_MISSING` is what a trial did not draw, which lies below."""
    field = space.space[name]
    if (listed := field.finite()) is not None:
        at = {json.dumps(value): place / max(len(listed) - 1, 1) for place, value in enumerate(listed)}
        labels = [(at[json.dumps(value)], _text(value)) for value in listed]
        heights = [_BELOW if value is _MISSING else at[json.dumps(value)] for value in values]
    else:
        low, high = (float(bound) for bound in field.extremes())  # type: ignore[arg-type]
        scale = math.log if field.loguniform is not None else float
        bottom, top = scale(low), scale(high)
        middle = math.sqrt(low * high) if field.loguniform is not None else (low + high) / 2
        labels = [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]
        heights = [_BELOW if value is _MISSING else (scale(value) - bottom) / (top - bottom) for value in values]
    return heights, labels + [(_BELOW, "not drawn")] * (_BELOW in heights)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _two_lines(path: str) -> str:
    section, _, name = path.rpartition(".")
    return f"{section}\n{name}"


def _label(space: SearchSpace) -> str:
    return {"attribute_accuracy": "attribute accuracy", "cider_d": "CIDEr-D x100"}[space.metric]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot, which would keep every figure alive

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
