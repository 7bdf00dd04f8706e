import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from icm_client.coherence.calibration import (
    expected_changes,
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.problem import FloatArray

NATS = st.floats(-50, 0)
SHAPES = st.tuples(st.integers(1, 12), st.integers(2, 4))
LOG_PROBS = arrays(np.float64, SHAPES, elements=NATS)


@given(LOG_PROBS)
def test_labelling_everything_alike_never_scores_above_zero(log_probs: FloatArray) -> None:
    calibrated = pointwise_mutual_information(log_probs)
    assert (calibrated.mean(axis=0) <= 1e-9).all()


@given(LOG_PROBS, arrays(np.float64, 4, elements=st.floats(-30, 30)))
def test_a_context_that_likes_a_label_better_changes_nothing(
    log_probs: FloatArray, liking: FloatArray
) -> None:
    liked = log_probs + liking[: log_probs.shape[1]]
    np.testing.assert_allclose(
        pointwise_mutual_information(liked), pointwise_mutual_information(log_probs), atol=1e-9
    )


@given(LOG_PROBS)
def test_the_mean_lift_of_a_label_is_one(log_probs: FloatArray) -> None:
    lifts = np.exp(pointwise_mutual_information(log_probs))
    np.testing.assert_allclose(lifts.mean(axis=0), 1)


def test_a_case_by_hand() -> None:
    # P(y=0 | x_1) = 0.9 and P(y=0 | x_2) = 0.6: mean 0.75, so lifts 0.9/0.75 = 1.2 and
    # 0.6/0.75 = 0.8. P(y=1 | .) = 0.1 and 0.4: mean 0.25, so lifts 0.4 and 1.6.
    # The raw log-probs call both items 0; calibrated, the second is 1.
    log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    calibrated = pointwise_mutual_information(log_probs)
    np.testing.assert_allclose(np.exp(calibrated), [[1.2, 0.4], [0.8, 1.6]])
    assert calibrated.argmax(axis=1).tolist() == [0, 1]


def test_an_item_alone_says_nothing() -> None:
    np.testing.assert_array_equal(pointwise_mutual_information(np.log([[0.9, 0.1]])), [[0, 0]])


def test_probabilities_too_small_for_a_float_are_kept_apart() -> None:
    # exp(-2000) is 0 in float64; naively the label's mean would be log 0.
    calibrated = pointwise_mutual_information(np.array([[-2000.0, -1.0], [-2001.0, -1.0]]))
    # mean of 1 and exp(-1) is 0.68394, its log -0.37989
    np.testing.assert_allclose(calibrated[:, 0], [0.37989, -0.62011], atol=1e-5)


def test_items_without_a_label_or_a_score_do_not_count_in_u() -> None:
    calibrated = np.array([[0.5, -1.0], [-0.25, 0.75], [np.nan, np.nan], [9.0, 9.0]])
    assert utility_of(calibrated, np.array([0, 1, 1, -1])) == (0.5 + 0.75) / 2


def test_labels_of_nothing_scored_tell_nothing() -> None:
    assert utility_of(np.full((2, 2), np.nan), np.array([0, 1])) == 0


@given(LOG_PROBS)
def test_log_softmax_rows_sum_to_one(scores: FloatArray) -> None:
    np.testing.assert_allclose(np.exp(log_softmax(scores)).sum(axis=1), 1)


def test_log_softmax_of_huge_scores_is_finite() -> None:
    np.testing.assert_allclose(
        log_softmax(np.array([[1e4, 1e4 - 1]])), [[-0.31326, -1.31326]], atol=1e-5
    )


@pytest.mark.parametrize("n_labels", [2, 4])
@pytest.mark.parametrize("contexts", [2, 3, 5])
def test_as_many_labels_change_in_one_more_context_as_expected(
    contexts: int, n_labels: int
) -> None:
    rng = np.random.default_rng(contexts)
    said = rng.normal(scale=2, size=(20_000, n_labels))
    scores = said + rng.normal(size=(contexts + 1, *said.shape))
    before, after = scores[:-1].mean(axis=0), scores.mean(axis=0)
    changed = (before.argmax(axis=1) != after.argmax(axis=1)).mean()
    # With several labels there are other rivals than the nearest one.
    assert expected_changes(scores[:-1], before) == pytest.approx(changed, rel=0.2)


def test_contexts_that_say_the_same_would_change_nothing() -> None:
    scores = np.stack([np.array([[1.0, 0.0], [0.0, 2.0], [np.nan, np.nan]])] * 3)
    assert expected_changes(scores, scores[0]) == 0
    assert expected_changes(scores[:1], scores[0]) == 1  # nothing says how much they differ
