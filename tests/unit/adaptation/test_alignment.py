"""Closed forms against other libraries, known answers and supports that hold no information."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from pipeline.adaptation.alignment import TextMap, fit_cca, fit_procrustes, fit_ridge, fold_text_map
from pipeline.adaptation.alignment.cca import _canonical_directions, _Side
from pipeline.models.projector import Projector

PENALTIES = (0.01, 0.1, 1.0)
FITS: dict[str, Callable[[Tensor, Tensor], TextMap]] = {
    "ridge": partial(fit_ridge, penalties=PENALTIES),
    "procrustes": partial(fit_procrustes, dimensions=(2, 4, 64)),
    "cca": partial(fit_cca, penalties=PENALTIES, dimensions=(2, 4, 64)),
}
every_fit = pytest.mark.parametrize("fit", FITS.values(), ids=FITS.keys())


def _pairs(
    shots: int, width: int = 6, text_width: int = 5, *, noise: float = 0.3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Unit-norm embeddings, and texts that are a noisy linear function of them."""
    generator = torch.Generator().manual_seed(seed)
    x_KE = normalize(torch.randn(shots, width, generator=generator), dim=-1)
    t_KW = x_KE @ torch.randn(width, text_width, generator=generator)
    return x_KE, normalize(t_KW + noise * torch.randn(shots, text_width, generator=generator) + 0.5, dim=-1)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=0)


def test_ridge_is_that_of_scikit_learn() -> None:
    x, t = _pairs(20)
    penalty = 0.3 * float(_centred(x).square().sum()) / len(x)
    reference = Ridge(alpha=penalty).fit(x.double().numpy(), t.double().numpy())
    ours = fit_ridge(x, t, (0.3,))
    np.testing.assert_allclose(ours.matrix_EW.T.numpy(), reference.coef_, atol=1e-5)
    predicted = normalize(torch.from_numpy(reference.predict(x.double().numpy())), dim=-1)
    torch.testing.assert_close(ours(x).double(), predicted, atol=1e-5, rtol=0)


def test_ridge_chooses_its_penalty_inside_the_support() -> None:
    generator = torch.Generator().manual_seed(0)
    x = normalize(torch.randn(64, 6, generator=generator), dim=-1)
    t = normalize(x @ torch.linalg.qr(torch.randn(6, 6, generator=generator))[0], dim=-1)
    ridge = fit_ridge(x, t, (1e-4, 1.0, 100.0))
    assert ridge.settings == {"penalty": 1e-4}
    torch.testing.assert_close(ridge(x), t, atol=1e-3, rtol=0)
    noise = normalize(torch.randn(64, 6, generator=generator), dim=-1)
    assert fit_ridge(x, noise, (1e-4, 1.0, 100.0)).settings == {"penalty": 100.0}


@pytest.mark.parametrize("shots", [5, 12])
def test_leave_one_out_of_ridge_is_that_of_refitting(shots: int) -> None:
    """Penalty and norm are those of refits without sample i (with the same centring)."""
    x, t = (value.double() for value in _pairs(shots))
    centred_x, centred_t = _centred(x), _centred(t)
    scores, norms = [], []
    for penalty in PENALTIES:
        predicted = []
        for i in range(shots):
            rest = [j for j in range(shots) if j != i]
            gram = centred_x[rest] @ centred_x[rest].T
            size = penalty * centred_x.square().sum() / shots
            weights = torch.linalg.solve(gram + size * torch.eye(shots - 1).double(), centred_t[rest])
            predicted.append(t.mean(dim=0) + (centred_x[i] @ centred_x[rest].T) @ weights)
        stacked = torch.stack(predicted)
        scores.append(float(cosine_similarity(stacked, t).mean()))
        norms.append(float(stacked.norm(dim=-1).mean()))
    best = int(np.argmax(scores))
    chosen = fit_ridge(x, t, PENALTIES)
    assert chosen.settings["penalty"] == PENALTIES[best]
    assert chosen.unseen_norm == pytest.approx(norms[best], abs=1e-9)


@given(seed=st.integers(0, 10_000), shots=st.integers(8, 30))
def test_procrustes_with_all_directions_is_that_of_scipy(seed: int, shots: int) -> None:
    x, t = _pairs(shots, 5, 5, seed=seed)
    rotation, total = orthogonal_procrustes(_centred(x).double().numpy(), _centred(t).double().numpy())
    scale = total / float(_centred(x).double().square().sum())
    fitted = fit_procrustes(x, t, (5,)).matrix_EW.numpy()
    np.testing.assert_allclose(fitted, scale * rotation, atol=1e-4)


@given(seed=st.integers(0, 10_000), width=st.integers(2, 9), kept=st.integers(1, 9))
def test_procrustes_rotates_and_scales_the_kept_directions(seed: int, width: int, kept: int) -> None:
    x, t = _pairs(24, width, 5, seed=seed)
    values = torch.linalg.svdvals(fit_procrustes(x.double(), t.double(), (kept,)).matrix_EW)
    rank = min(kept, width, 5)
    torch.testing.assert_close(values[:rank], values[:1].expand(rank), atol=1e-9, rtol=0)
    assert torch.all(values[rank:] < 1e-9)


@pytest.mark.parametrize("components", [1, 3])
def test_cca_is_that_of_scikit_learn(components: int) -> None:
    """Without a penalty, and with more pairs than dimensions: elsewhere plain CCA is not defined."""
    x, t = (_centred(value.double()) for value in _pairs(300, 6, 4))
    weights, correlations, _ = _canonical_directions(_Side(x), _Side(t), 0.0)
    reference = CCA(n_components=components, scale=False, max_iter=10_000, tol=1e-12).fit(x.numpy(), t.numpy())
    theirs_x, theirs_t = reference.transform(x.numpy(), t.numpy())
    for index in range(components):
        theirs = np.corrcoef(theirs_x[:, index], theirs_t[:, index])[0, 1]
        assert float(correlations[index]) == pytest.approx(theirs, abs=1e-6)
        ours = (x @ weights[:, index]).numpy()
        assert abs(np.corrcoef(ours, theirs_x[:, index])[0, 1]) == pytest.approx(1.0, abs=1e-6)


def test_cca_with_all_directions_and_no_penalty_is_least_squares() -> None:
    x, t = (value.double() for value in _pairs(100, 6, 4))
    fitted = fit_cca(x, t, penalties=(1e-12,), dimensions=(64,)).matrix_EW
    expected = torch.linalg.lstsq(_centred(x), _centred(t)).solution
    torch.testing.assert_close(fitted, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("fit", "setting"), [("procrustes", "dimensions"), ("cca", "dimensions")])
def test_directions_are_chosen_inside_the_support(fit: str, setting: str) -> None:
    """A single shared direction among noise: keeping more of them fits noise."""
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(40, 1, generator=generator)
    x = 0.3 * torch.randn(40, 8, generator=generator) + signal * torch.eye(8)[0]
    t = 0.3 * torch.randn(40, 8, generator=generator) + signal * torch.eye(8)[1]
    fits = {
        "procrustes": partial(fit_procrustes, dimensions=(8, 1)),
        "cca": partial(fit_cca, penalties=(1e-6,), dimensions=(8, 1)),
    }
    assert fits[fit](x, t).settings[setting] == 1


@every_fit
@given(seed=st.integers(0, 10_000), shots=st.integers(2, 14))
def test_rotating_the_encoder_changes_nothing(fit: Callable[[Tensor, Tensor], TextMap], seed: int, shots: int) -> None:
    x, t = (value.double() for value in _pairs(shots, seed=seed))
    new, _ = _pairs(3, seed=seed + 1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)).double())[0]
    turned = fit(x @ rotation, t)
    torch.testing.assert_close(turned(new.double() @ rotation), fit(x, t)(new.double()), atol=1e-6, rtol=0)


@every_fit
def test_constant_features_are_as_if_absent(fit: Callable[[Tensor, Tensor], TextMap]) -> None:
    x, t = _pairs(10)
    widened = torch.cat([x, torch.full((10, 3), 0.7)], dim=1)
    torch.testing.assert_close(fit(widened, t)(widened), fit(x, t)(x), atol=1e-5, rtol=0)


@every_fit
def test_supports_without_information_map_to_the_mean_text(fit: Callable[[Tensor, Tensor], TextMap]) -> None:
    x, t = _pairs(6)
    new = torch.randn(4, 6)
    one_pair = fit(x[:1], t[:1])
    one_caption = fit(x, t[:1].expand(6, -1))
    one_embedding = fit(x[:1].expand(6, -1), t)
    for fitted, mean in [(one_pair, t[0]), (one_caption, t[0]), (one_embedding, normalize(t.mean(dim=0), dim=0))]:
        torch.testing.assert_close(fitted(new), mean.expand(4, -1), atol=1e-5, rtol=0)
        assert fitted.unseen_norm == pytest.approx(float(fitted.t_mean_W.norm()), abs=0.2)


@every_fit
def test_duplicated_pairs_give_finite_maps(fit: Callable[[Tensor, Tensor], TextMap]) -> None:
    x, t = _pairs(4)
    fitted = fit(x.repeat(3, 1), t.repeat(3, 1))
    assert torch.isfinite(fitted.matrix_EW).all()
    assert torch.all(cosine_similarity(fitted(x), t) > 0.9)


@every_fit
def test_more_pairs_than_folds_still_choose(fit: Callable[[Tensor, Tensor], TextMap]) -> None:
    x, t = _pairs(75, noise=0.05)
    assert cosine_similarity(fit(x, t)(x), t).mean() > 0.9


def test_nothing_to_choose_from_is_refused() -> None:
    x, t = _pairs(4)
    with pytest.raises(ValueError, match="evaluate.ridge_penalties is empty"):
        fit_ridge(x, t, ())
    with pytest.raises(ValueError, match="evaluate.alignment_dimensions is empty"):
        fit_procrustes(x, t, ())
    with pytest.raises(ValueError, match="need at least one value each, got .* and "):
        fit_cca(x, t, penalties=(), dimensions=(2,))


def test_a_folded_map_is_exact_where_no_row_needs_its_own_norm() -> None:
    """The fold replaces the normalisation by one factor: exact where every prediction has the mean norm."""
    x, _ = _pairs(12)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    text_map = TextMap(
        matrix_EW=3.0 * rotation, x_mean_E=torch.zeros(6), t_mean_W=torch.zeros(6), unseen_norm=3.0, settings={}
    )
    projector = Projector(6, 8, hidden_width=7, soft_tokens=2, dropout=0.3).eval()
    folded = fold_text_map(projector, text_map)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), projector(text_map(x)), atol=1e-5, rtol=0)


@every_fit
@pytest.mark.parametrize("width", [3, 6, 9])
def test_a_folded_map_is_the_map_with_one_factor(fit: Callable[[Tensor, Tensor], TextMap], width: int) -> None:
    x, t = _pairs(12, width)
    text_map = fit(x, t)
    projector = Projector(5, 8, hidden_width=7, soft_tokens=2, dropout=0.0).eval()
    folded = fold_text_map(projector, text_map)
    raw = (x - text_map.x_mean_E) @ text_map.matrix_EW + text_map.t_mean_W
    with torch.no_grad():
        torch.testing.assert_close(folded(x), projector(raw / text_map.unseen_norm), atol=1e-5, rtol=0)
    assert folded.input_width == width
