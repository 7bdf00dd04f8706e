"""The loss: that of the label's tokens, each after its own prompt, and of nothing else."""

import copy
from typing import Any

import pytest
import torch
from tiny_model import make_tiny_model, tiny_examples
from transformers import AutoModelForCausalLM, AutoTokenizer

from icm_client.errors import TrainingError
from icm_client.runs.trainer import Example
from icm_client.training.label_loss import IGNORED, collate, encode, summed_loss

pytestmark = pytest.mark.slow

BOS = 1


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def batch(loaded: tuple[Any, Any]) -> dict[str, torch.Tensor]:
    return collate(encode(tiny_examples()[:12], loaded[1]))


def test_a_loss_is_taken_at_the_label_and_nowhere_else(
    loaded: tuple[Any, Any], batch: dict[str, torch.Tensor]
) -> None:
    _, tokenizer = loaded
    assert (batch["labels"][:, :-1] == IGNORED).all()
    words = [tokenizer.decode([token]) for token in batch["labels"][:, -1].tolist()]
    assert words == [example.label.strip() for example in tiny_examples()[:12]]


def test_the_loss_is_the_labels_log_prob_after_the_unpadded_prompt(
    loaded: tuple[Any, Any], batch: dict[str, torch.Tensor]
) -> None:
    model, tokenizer = loaded
    alone = torch.zeros(())
    for one in encode(tiny_examples()[:12], tokenizer):
        assert one.prompt[0] == BOS
        assert BOS not in one.prompt[1:]
        logits = model(torch.tensor([one.prompt])).logits[0, -1]
        alone = alone - logits.log_softmax(-1)[one.label[0]]
    assert len({int(mask.sum()) for mask in batch["attention_mask"]}) > 1, "some are padded"
    assert summed_loss(model, batch).item() == pytest.approx(alone.item(), rel=1e-5)


def test_what_the_prompt_says_next_moves_no_gradient(
    loaded: tuple[Any, Any], batch: dict[str, torch.Tensor]
) -> None:
    # Trained on prompts too, the head's row of a word that only prompts hold would be pulled
    # towards where it stands. Trained on labels alone, it is pushed away by the softmax, at the
    # labels' places and nowhere else.
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # untied
    seen: list[torch.Tensor] = []
    model.lm_head.register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
    loss: Any = summed_loss(model, batch)
    loss.backward()
    hidden, logits = (tensor.detach() for tensor in seen)
    assert hidden.shape[:2] == (12, 2), "the head is not even applied to the prompts' positions"
    film = tokenizer.convert_tokens_to_ids("film")
    pushed = logits[:, 0].softmax(-1)[:, film] @ hidden[:, 0]
    assert torch.allclose(model.lm_head.weight.grad[film], pushed, atol=1e-5)


def test_a_label_of_several_tokens_counts_whole(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    examples = [
        Example("Review: the film", " was very good"),
        Example("Review: the trip was", " bad"),
    ]
    encoded = encode(examples, tokenizer)
    assert [len(one.label) for one in encoded] == [3, 1]
    alone = 0.0
    for one in encoded:
        whole = torch.tensor([one.prompt + one.label])
        log_probs = model(whole).logits[0].log_softmax(-1)
        places = range(len(one.prompt) - 1, len(whole[0]) - 1)
        alone -= sum(log_probs[n, whole[0, n + 1]].item() for n in places)
    assert summed_loss(model, collate(encoded)).item() == pytest.approx(alone, rel=1e-5)


def test_a_label_that_merges_with_its_prompt_is_refused(loaded: tuple[Any, Any]) -> None:
    examples = [Example("Review: film", " good"), Example("Review: film", "good")]
    with pytest.raises(TrainingError, match=r"example 1 .*'good' has no tokens of its own"):
        encode(examples, loaded[1])


def test_an_empty_prompt_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(TrainingError, match="example 0"):
        encode([Example("", " good")], loaded[1])
