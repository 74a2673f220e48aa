"""What methods are called in reports, and which are of one kind.

In: names of methods.  Out: their label, and their family with the colour it is drawn in.  This is the one list of
families: 22 curves are too many for one panel, so plots show the best few of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LABELS = {
    "semi": "SEMI",
    "semi_no_finetune": "SEMI, no fine-tuning",
    "semi_shuffled_text": "SEMI, shuffled text",
    "semi_random_embeddings": "SEMI, random embeddings",
    "semi_other_support": "SEMI, another modality's support",
    "average_adapter": "mean of the training adapters",
    "scratch": "projector from scratch",
    "limber": "linear map to the soft tokens",
    "finetuned_projector": "fine-tuned projector",
    "random_lora": "random-init LoRA",
    "ridge": "ridge to text space",
    "procrustes": "Procrustes to text space",
    "cca": "CCA to text space",
    "ridge_init": "ridge, fine-tuned",
    "procrustes_init": "Procrustes, fine-tuned",
    "cca_init": "CCA, fine-tuned",
    "retrieval_icl": "retrieved captions in context",
    "knn_1": "1-NN caption copy",
    "knn_3": "3-NN caption copy",
    "knn_5": "5-NN caption copy",
    "constant": "most frequent caption",
    "linear_probe": "linear probe of the attributes",
}
"""How methods are called in reports; a method that is not here goes by its own name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Methods of one kind."""

    name: str
    colour: str
    """From the Okabe-Ito palette."""
    marker: str
    """Matplotlib's name of a marker: colour alone must not tell families apart."""
    methods: tuple[str, ...]
    control: bool = False
    """Methods that must be worse than the focus; scored at one size only, they have no curve."""
    upper_bound: bool = False
    """Methods that are given the attributes, which the others have to find in captions."""


FAMILIES = (
    Family(name="hypernetwork", colour="#0072B2", marker="o", methods=("semi", "semi_no_finetune")),
    Family(name="closed form", colour="#009E73", marker="s", methods=("ridge", "procrustes", "cca")),
    Family(
        name="closed form, fine-tuned",
        colour="#E69F00",
        marker="D",
        methods=("ridge_init", "procrustes_init", "cca_init"),
    ),
    Family(
        name="trained on the support",
        colour="#D55E00",
        marker="^",
        methods=("scratch", "limber", "finetuned_projector", "random_lora"),
    ),
    Family(
        name="captions of the support",
        colour="#666666",
        marker="v",
        methods=("knn_1", "knn_3", "knn_5", "retrieval_icl", "constant"),
    ),
    Family(name="reads attributes", colour="#222222", marker="x", methods=("linear_probe",), upper_bound=True),
    Family(
        name="control",
        colour="#CC79A7",
        marker="P",
        methods=("semi_shuffled_text", "semi_random_embeddings", "semi_other_support", "average_adapter"),
        control=True,
    ),
)
OTHER = Family(name="other", colour="#56B4E9", marker="*", methods=())
"""Methods that are in no family."""


def family_of(method: str) -> Family:
    """The family of a method."""
    return next((family for family in FAMILIES if method in family.methods), OTHER)


def best_of_families(scores: Mapping[str, float], *, focus: str, each: int = 2) -> list[str]:
    """`focus` and the `each` best methods of each family by `scores`, the best first."""
    ranked = sorted(scores, key=lambda method: -scores[method])
    kept: dict[str, int] = {}
    shown = []
    for method in ranked:
        family = family_of(method).name
        if method == focus or kept.get(family, 0) < each:
            shown.append(method)
            kept[family] = kept.get(family, 0) + (method != focus)
    return shown


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels, `gap` apart and within `low`..`high`, close to `heights`; order is kept."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    gap = min(gap, (high - low) / max(len(heights) - 1, 1))
    places = [0.0] * len(heights)
    # Labels that would overlap form a block, which is centred on the mean of what it labels (pool adjacent violators).
    blocks: list[tuple[float, list[int]]] = []
    for index in order:
        blocks.append((_centre([index], heights, gap, low, high), [index]))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (len(blocks[-1][1]) + len(blocks[-2][1])) / 2:
            members = blocks[-2][1] + blocks[-1][1]
            blocks[-2:] = [(_centre(members, heights, gap, low, high), members)]
    for centre, members in blocks:
        for position, index in enumerate(members):
            places[index] = centre + gap * (position - (len(members) - 1) / 2)
    return places


def _centre(members: Sequence[int], heights: Sequence[float], gap: float, low: float, high: float) -> float:
    half = gap * (len(members) - 1) / 2
    mean = sum(heights[index] for index in members) / len(members)
    return min(max(mean, low + half), high - half)
