"""`/v1/models` as the servers of today write it, and as they might."""

import json

import pytest

from icm_client.endpoints.parsing import adapter_facts, context_length_of, models_in
from icm_client.errors import MalformedAnswer


def listing(*entries: object) -> bytes:
    return json.dumps({"object": "list", "data": list(entries)}).encode()


def test_a_bare_array_and_no_list_at_all_are_lists() -> None:
    assert [card.id for card in models_in(b'[{"id": "together/a"}, {"id": "b"}]')] == [
        "together/a",
        "b",
    ]
    assert models_in(b'{"data": null}') == []  # Ollama, without a model


@pytest.mark.parametrize(
    "field", [{"max_model_len": 4096}, {"context_length": 4096}, {"meta": {"n_ctx": 4096}}]
)
def test_the_context_is_found_in_whichever_field_it_stands(field: dict[str, object]) -> None:
    (card,) = models_in(listing({"id": "m", **field}))
    assert card.context_tokens == 4096


def test_a_field_of_another_type_counts_as_absent() -> None:
    odd = {"id": "m", "max_model_len": "4096", "meta": "none", "aliases": None, "root": 3}
    (card,) = models_in(listing(odd))
    assert (card.id, card.max_model_len, card.meta, card.aliases, card.root) == (
        "m",
        None,
        None,
        None,
        None,
    )


@pytest.mark.parametrize("body", [b"{}", b'{"data": [{"name": "m"}]}', b'{"data": "m"}', b"<html>"])
def test_what_lists_no_names_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        models_in(body)


def test_an_adapter_has_the_context_and_the_weights_of_its_base() -> None:
    base = {"id": "base", "root": "org/base", "max_model_len": 64}
    models = models_in(listing(base, {"id": "tuned", "root": "adapter", "parent": "base"}))
    assert context_length_of(models[1], models) == 64
    assert adapter_facts(models[1], models) == {"parent": "base", "parent_root": "org/base"}
    assert adapter_facts(models[0], models) == {}, "fingerprints of old runs stay what they are"
