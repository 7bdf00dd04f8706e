import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.prior import estimate_prior, offsets_for_prior
from icm_client.coherence.problem import FloatArray


def scores(n_labels: int, seed: int, n: int = 60) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 2, size=(n, n_labels))


@given(
    st.integers(2, 3).flatmap(
        lambda k: st.lists(st.floats(0.05, 1), min_size=k, max_size=k).map(np.array)
    ),
    st.integers(0, 1000),
)
def test_the_mean_posterior_is_the_prior(weights: FloatArray, seed: int) -> None:
    prior = weights / weights.sum()
    drawn = scores(len(prior), seed)
    offsets = offsets_for_prior(drawn, prior)
    assert offsets[0] == 0
    posterior = np.exp(log_softmax(drawn + offsets))
    np.testing.assert_allclose(posterior.mean(axis=0), prior, atol=1e-6)


def test_scores_that_say_nothing_leave_the_prior() -> None:
    # Then every posterior is the prior, and offsets are its log-odds: log(0.25 / 0.75).
    offsets = offsets_for_prior(np.zeros((10, 2)), np.array([0.75, 0.25]))
    np.testing.assert_allclose(offsets, [0, -np.log(3)])


@pytest.mark.parametrize("n_labels", [2, 3])
def test_a_given_prior_is_taken_and_items_without_a_score_left_out(n_labels: int) -> None:
    prior = np.array([0.2, 0.8] if n_labels == 2 else [0.5, 0.2, 0.3])
    drawn = scores(n_labels, seed=3)
    holed = np.vstack([drawn, np.full((7, n_labels), np.nan)])
    estimate = estimate_prior(holed, prior)
    assert estimate.source == "given"
    np.testing.assert_array_equal(estimate.offsets, offsets_for_prior(drawn, prior))


@pytest.mark.parametrize("n_labels", [2, 3])
def test_without_a_prior_offsets_are_finite_and_say_where_they_come_from(n_labels: int) -> None:
    estimate = estimate_prior(scores(n_labels, seed=4), None)
    assert estimate.offsets.shape == (n_labels,)
    assert np.isfinite(estimate.offsets).all()
    assert estimate.source in ("mixture", "even")


def two_modes(share: float, gap: float, *, n: int = 200, seed: int = 0) -> FloatArray:
    """Calibrated scores whose log-odds stand `gap` standard deviations apart, off centre."""
    rng = np.random.default_rng(seed)
    upper = np.arange(n) < share * n
    log_odds = rng.normal(size=n) + np.where(upper, gap, 0.0) - 0.2 * gap
    return np.stack([log_odds, np.zeros(n)], axis=1)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.8, 0.9])
def test_uneven_modes_that_stand_apart_move_the_threshold_between_them(share: float) -> None:
    scores = two_modes(share, gap=5.0)
    estimate = estimate_prior(scores, None)
    assert estimate.source == "mixture"
    assert estimate.separation is not None
    assert estimate.separation > 3
    labelled = (scores + estimate.offsets).argmax(axis=1) == 0
    assert labelled.mean() == pytest.approx(share, abs=0.03)


def test_even_modes_leave_the_threshold_alone() -> None:
    estimate = estimate_prior(two_modes(0.5, gap=5.0), None)
    assert estimate.source == "even"
    assert not estimate.offsets.any()


def test_one_mode_alone_is_hardly_ever_taken_for_two() -> None:
    sources = [estimate_prior(two_modes(0.0, gap=0.0, seed=s), None).source for s in range(100)]
    assert sources.count("mixture") <= 8


def test_equal_scores_and_more_labels_are_left_alone() -> None:
    for scores in (np.zeros((10, 2)), np.random.default_rng(0).normal(size=(10, 3))):
        estimate = estimate_prior(scores, None)
        assert (estimate.source, estimate.separation) == ("even", None)


def test_items_without_a_score_are_left_out() -> None:
    scores = two_modes(0.2, gap=5.0)
    with_gaps = np.concatenate([scores, np.full((5, 2), np.nan)])
    np.testing.assert_array_equal(
        estimate_prior(with_gaps, None).offsets, estimate_prior(scores, None).offsets
    )


def test_few_uneven_rows_are_suspected_and_stand_where_they_were_seen_before() -> None:
    # 6 of 40 items in the upper mode: two normals are likelier than one by less than Akaike's 2.
    drawn = two_modes(0.15, 2.3, n=40, seed=3)
    new = estimate_prior(drawn, None)
    assert new.source == "even"
    assert new.suspected is not None
    assert min(new.suspected, 1 - new.suspected) < 0.35
    again = estimate_prior(drawn, None, uneven_before=True)
    assert again.source == "mixture"
    assert again.suspected is None


def test_even_modes_never_move_the_threshold_whatever_was_seen_before() -> None:
    drawn = two_modes(0.5, 4.0)
    estimate = estimate_prior(drawn, None, uneven_before=True)
    assert estimate.source == "even"
    assert estimate.suspected is None


def test_a_known_prior_of_nothing_scored_is_still_given() -> None:
    estimate = estimate_prior(np.full((3, 2), np.nan), np.array([0.2, 0.8]))
    assert (estimate.source, estimate.offsets.tolist()) == ("given", [0, 0])
