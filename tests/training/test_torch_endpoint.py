"""A model in this process answers as a server does: exactly, in batches, from kept prefixes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import make_tiny_model, tiny_examples
from transformers import AutoModelForCausalLM

from icm_client.coherence.problem import Demo, Query
from icm_client.endpoints import Exactness, Read
from icm_client.errors import EndpointFault, ScoreNotFinite
from icm_client.scoring import Scorer, ScoreStore, prompt_ids, tokenize_pieces
from icm_client.training.base_model import BaseModel, find_base
from icm_client.training.label_loss import encode
from icm_client.training.torch_endpoint import FEWEST_SHARED, TorchEndpoint

pytestmark = pytest.mark.slow

LABELS = (" positive", " negative")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return find_base(str(make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")))


@pytest.fixture(scope="module")
def plain(base: BaseModel) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(base.folder)
    return model.eval()


def expected(model: Any, read: Read) -> list[float]:
    with torch.inference_mode():
        log_probs = model(torch.tensor([read.prompt])).logits[0, -1].log_softmax(-1)
    return log_probs[list(read.wanted)].tolist()  # type: ignore[no-any-return]


async def reads_of(endpoint: TorchEndpoint, before: str = "") -> list[Read]:
    wanted = tuple([(await endpoint.tokenize(text, add_special=False))[0] for text in LABELS])
    return [
        Read(await endpoint.tokenize(before + example.prompt, add_special=True), wanted)
        for example in tiny_examples()[:20]
    ]


async def test_prompts_of_all_lengths_are_read_exactly(base: BaseModel, plain: Any) -> None:
    endpoint = await TorchEndpoint.open(base)
    reads = await reads_of(endpoint)
    assert len({len(read.prompt) for read in reads}) > 1
    for read, answer in zip(reads, await endpoint.read(reads), strict=True):
        assert answer.log_probs == pytest.approx(expected(plain, read), abs=1e-5)
        assert answer.exactness is Exactness.EXACT
    assert endpoint.usage.computed_tokens == sum(len(read.prompt) for read in reads)
    await endpoint.aclose()


@pytest.mark.parametrize("warmed", [False, True])
async def test_a_shared_prefix_is_computed_once_and_changes_nothing(
    base: BaseModel, plain: Any, warmed: bool
) -> None:
    endpoint = await TorchEndpoint.open(base)
    demos = "Review: the book was very poor Sentiment: negative " * 6
    reads = await reads_of(endpoint, demos)
    shared = await endpoint.tokenize(demos, add_special=True)
    assert len(shared) > FEWEST_SHARED
    if warmed:
        await endpoint.warm(shared)
    for _ in range(2):  # the second time, what is kept must still be what it was
        for read, answer in zip(reads, await endpoint.read(reads), strict=True):
            assert answer.log_probs == pytest.approx(expected(plain, read), abs=1e-5)
    assert endpoint.usage.computed_tokens < 0.3 * 2 * sum(len(read.prompt) for read in reads)
    assert endpoint.usage.cached_tokens >= 2 * len(reads) * len(shared)
    await endpoint.aclose()


async def test_the_scorer_reads_the_very_tokens_that_training_learns(
    base: BaseModel, tmp_path: Path
) -> None:
    endpoint = await TorchEndpoint.open(base)
    examples = tiny_examples()[:6]
    prompts = [example.prompt for example in examples]
    with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
        pieces = await tokenize_pieces(prompts, LABELS, "\n\n", endpoint, store)
        learned = encode(examples, endpoint._tokenizer)
        for number, (example, ids) in enumerate(zip(examples, learned, strict=True)):
            assert prompt_ids(pieces, Query((), number)) == ids.prompt
            assert pieces.labels[LABELS.index(example.label)] == ids.label
        found = await Scorer(endpoint, store, pieces)(
            [Query((Demo(0, 0), Demo(1, 1)), number) for number in range(2, 6)]
        )
    assert found.shape == (4, 2)
    assert np.isfinite(found).all()
    await endpoint.aclose()


async def test_every_model_has_its_own_fingerprint(base: BaseModel, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(base.folder, copied)
    other = make_tiny_model(tmp_path / "other", seed=1)
    found = [
        (await TorchEndpoint.open(find_base(str(folder)), trained)).identity.fingerprint
        for folder, trained in ((base.folder, None), (copied, None), (other, None), (copied, other))
    ]
    assert found[0] == found[1], "the same weights in another place are the same model"
    assert len(set(found)) == 3


async def test_nan_from_the_model_is_an_error(base: BaseModel) -> None:
    endpoint = await TorchEndpoint.open(base)
    reads = await reads_of(endpoint)
    with torch.no_grad():
        endpoint._model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(ScoreNotFinite):
        await endpoint.read(reads)


async def test_torchs_error_is_an_endpoint_fault(base: BaseModel) -> None:
    endpoint = await TorchEndpoint.open(base)

    def out_of_memory(**_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    endpoint._model.forward = out_of_memory
    with pytest.raises(EndpointFault, match="could not be computed: tried to allocate"):
        await endpoint.read(await reads_of(endpoint))
