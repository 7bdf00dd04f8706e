from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.calibration import log_softmax, pointwise_mutual_information
from icm_client.coherence.label_prior import estimate_prior, offsets_for_prior
from icm_client.coherence.problem import FloatArray, IntArray


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


def skewed(share: float, n: int, seed: int, *, shape: float = 2.0, gap: float = 7.0) -> FloatArray:
    """Log-odds of two groups that lean to each other, as a model's do: mirrored log-gammas."""
    rng = np.random.default_rng(seed)
    tails = np.log(rng.gamma(shape, size=n))
    upper = np.arange(n) < round(share * n)
    log_odds = np.where(upper, gap / 2 + tails, -gap / 2 - tails)
    return np.stack([log_odds, np.zeros(n)], axis=1)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.36, 0.5, 0.64, 0.8, 0.9])
def test_at_any_share_labels_are_told_apart_nearly_as_well_as_gold_would(share: float) -> None:
    lost = []
    for seed in range(10):
        scores = skewed(share, 128, seed)
        log_odds, truth = scores[:, 0], np.arange(128) < round(share * 128)
        best = max(((log_odds > t) == truth).mean() for t in (-99.0, *log_odds))
        estimate = estimate_prior(scores, None)
        labelled = (scores + estimate.offsets).argmax(axis=1) == 0
        lost.append(best - (labelled == truth).mean())
    assert np.mean(lost) < 0.02


def test_the_interval_of_the_share_nearly_always_holds_the_share() -> None:
    inside = 0
    for seed in range(40):
        estimate = estimate_prior(skewed(0.64, 128, seed), None)
        assert estimate.interval is not None
        low, high = estimate.interval
        inside += low <= 82 / 128 <= high
        assert high - low < 0.2
    assert inside >= 32


def test_a_single_outlier_moves_no_threshold_far() -> None:
    scores = skewed(0.64, 128, 0)
    outlier = np.concatenate([scores, [[60.0, 0.0]]])
    one, other = (estimate_prior(each, None).offsets[1] for each in (scores, outlier))
    assert other == pytest.approx(one, abs=0.5)


def test_scores_that_are_alike_but_for_one_raise_no_warning_of_numpys() -> None:
    estimate = estimate_prior(np.array([[0.0, 0.0]] * 99 + [[3.0, 0.0]]), None)  # it would raise
    assert estimate.offsets[1] == pytest.approx(1.5)


def test_many_items_have_a_finer_estimate() -> None:
    few, many = (estimate_prior(two_modes(0.3, 3.5, n=n), None).interval for n in (200, 20_000))
    assert few is not None
    assert many is not None
    assert many[1] - many[0] < (few[1] - few[0]) / 3
    assert many[0] - 0.01 < 0.3 < many[1] + 0.01


@pytest.mark.parametrize("n", [257, 300, 400, 500, 700])
def test_the_rows_of_both_ends_weigh_the_same_however_many_there_are(n: int) -> None:
    # Of 400 rows the lower 288 were once averaged in twos and the upper 112 were not: half and
    # half was taken for 62%.
    even = np.random.default_rng(n).normal(size=n) + np.where(np.arange(n) < n // 2, 3.2, 0)
    scores = np.stack([even, np.zeros(n)], axis=1)
    one, other = (estimate_prior(each, None) for each in (scores, scores[:, ::-1]))
    assert one.interval is not None
    assert other.interval is not None
    assert one.interval[0] - 0.01 < 0.5 < one.interval[1] + 0.01
    np.testing.assert_allclose(one.interval, 1 - np.array(other.interval)[::-1], atol=0.01)
    assert one.offsets[1] == pytest.approx(-other.offsets[1], abs=0.1)


def several(shares: list[float], n: int, lean: float, seed: int) -> tuple[FloatArray, IntArray]:
    """Calibrated scores of three labels and more, each with a bias of its own, and the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(len(shares), n, p=shares)
    scores = rng.normal(size=(n, len(shares))) + rng.normal(0, 0.7, size=len(shares))
    scores[np.arange(n), classes] += lean
    return pointwise_mutual_information(log_softmax(scores)), classes


@pytest.mark.parametrize("shares", [[0.7, 0.2, 0.1], [0.5, 0.2, 0.15, 0.1, 0.05]])
def test_uneven_shares_of_several_labels_are_found(shares: list[float]) -> None:
    gained, found = [], 0
    for seed in range(10):
        scores, classes = several(shares, 160, 3.0, seed)
        estimate = estimate_prior(scores, None)
        found += estimate.source == "mixture"
        with_offsets = (scores + estimate.offsets).argmax(axis=1) == classes
        gained.append(with_offsets.mean() - (scores.argmax(axis=1) == classes).mean())
    assert found >= 8  # rarely a label of a few rows seems to vanish, and none is moved
    assert np.mean(gained) > 0.04
    assert min(gained) > -0.02


def test_two_labels_are_not_taken_for_one_of_three() -> None:
    # Label 0 leans so little that its items lie near label 1's: the likeliest two groups are one.
    classes = np.arange(96) % 3
    means = np.array([[0.4, 0.2, -0.6], [-0.1, 0.9, -0.8], [-1.5, -1.5, 3.0]])
    scores = means[classes] + np.random.default_rng(0).normal(0, 0.05, size=(96, 3))
    labelled = (scores + estimate_prior(scores, None).offsets).argmax(axis=1)
    assert np.bincount(labelled, minlength=3).min() > 0


@pytest.mark.slow
def test_one_mode_alone_is_hardly_ever_taken_for_two() -> None:
    sources = [estimate_prior(two_modes(0.0, gap=0.0, seed=s), None).source for s in range(100)]
    assert sources.count("mixture") <= 8


@given(
    st.integers(2, 4).flatmap(
        lambda k: st.lists(
            st.lists(st.sampled_from([-30.0, -1.0, 0.0, 0.5, 4.0]), min_size=k, max_size=k),
            min_size=k,
            max_size=12,
        )
    ),
    st.booleans(),
)
def test_few_or_equal_scores_never_end_in_offsets_that_are_no_numbers(
    drawn: list[list[float]], grouped: bool
) -> None:
    estimate = estimate_prior(np.array(drawn), None, grouped_before=grouped)
    assert np.isfinite(estimate.offsets).all()
    assert estimate.interval is None or 0 <= estimate.interval[0] <= estimate.interval[1] <= 1


@pytest.mark.parametrize("n_labels", [2, 3])
def test_equal_scores_are_left_alone(n_labels: int) -> None:
    estimate = estimate_prior(np.zeros((10, n_labels)), None)
    assert (estimate.source, estimate.separation) == ("even", None)


def test_noise_over_several_labels_is_hardly_ever_taken_for_groups() -> None:
    rng = np.random.default_rng(0)
    noise = [
        pointwise_mutual_information(log_softmax(rng.normal(size=(128, 3)))) for _ in range(99)
    ]
    assert [estimate_prior(one, None).source for one in noise].count("mixture") <= 2


def test_items_without_a_score_are_left_out() -> None:
    scores = two_modes(0.2, gap=5.0)
    with_gaps = np.concatenate([scores, np.full((5, 2), np.nan)])
    np.testing.assert_array_equal(
        estimate_prior(with_gaps, None).offsets, estimate_prior(scores, None).offsets
    )


def test_groups_of_few_rows_stand_where_they_were_seen_before() -> None:
    # Two groups are likelier than one by less than Akaike's 2.
    drawn = two_modes(0.15, 2.6, n=40, seed=7)
    new = estimate_prior(drawn, None)
    assert (new.source, new.offsets.tolist()) == ("even", [0, 0])
    assert new.interval is not None
    assert new.interval[1] - new.interval[0] > 0.1
    assert estimate_prior(drawn, None, grouped_before=True).source == "mixture"


def test_a_known_prior_of_nothing_scored_is_still_given() -> None:
    estimate = estimate_prior(np.full((3, 2), np.nan), np.array([0.2, 0.8]))
    assert (estimate.source, estimate.offsets.tolist()) == ("given", [0, 0])


@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("name", ["movies", "products"])
def test_reviews_are_labelled_nearly_as_well_as_the_best_threshold_would(
    name: str, contexts: int
) -> None:
    # Log-probs of 400 reviews by gemma-3-270m, given golden demos; `scripts/bench thresholds`.
    kept = np.load(Path(__file__).parent / "thresholds" / f"{name}.npz")
    rng = np.random.default_rng(1)
    lost = []
    for share in (0.1, 0.36, 0.64, 0.9):
        for _ in range(5):
            taken = np.concatenate(
                [
                    rng.choice(np.flatnonzero(kept["gold"] == label), count, replace=False)
                    for label, count in ((1, round(share * 128)), (0, 128 - round(share * 128)))
                ]
            )
            gold = kept["gold"][taken]
            scores = np.mean(
                [pointwise_mutual_information(one[taken]) for one in kept["lp"][:contexts]], axis=0
            )
            log_odds = scores[:, 1] - scores[:, 0]
            best = max(((log_odds > at) == gold).mean() for at in (-99.0, *log_odds))
            offsets = estimate_prior(scores, None).offsets
            lost.append(best - ((scores + offsets).argmax(axis=1) == gold).mean())
    assert np.mean(lost) < 0.03
