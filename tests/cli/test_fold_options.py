from pathlib import Path

import click
import pytest

from icm_client.cli.options import settings_of
from icm_client.cli.trainer_options import trainer_of
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.errors import InputError
from icm_client.runs.presets import Preset
from icm_client.runs.server import Server
from icm_client.training.local import LocalTrainer
from icm_client.training.served import ServedTrainer


def test_numbers_go_to_the_search_that_they_are_of() -> None:
    assert settings_of("folds", folds=3, passes=2, demos=16, initial=None) == (
        FoldSettings(folds=3, passes=2, sweeps=SweepSettings(demos=16))
    )
    assert settings_of("iterate", restarts=3, max_sweeps=6, initial=4) == IterateSettings(
        sweeps=SweepSettings(restarts=3, max_sweeps=6, initial=4)
    )


def test_iterate_is_a_preset_of_its_own() -> None:
    assert settings_of("fast", iterate=64) == IterateSettings(batch=64)
    assert settings_of("iterate") == IterateSettings(batch=256)
    with pytest.raises(click.UsageError, match="search of its own"):
        settings_of("folds", iterate=64)


@pytest.mark.parametrize(
    ("preset", "name", "message"),
    [
        ("fast", "folds", "--folds is for --preset folds, not for fast"),
        ("fast", "passes", "--passes is for --preset folds"),
        ("paper", "folds", "--folds is for --preset folds"),
        ("iterate", "passes", "--passes is for --preset folds, not for iterate"),
        ("folds", "iterations", "--steps is for --preset paper and official, not for folds"),
        ("iterate", "alpha", "--alpha is for --preset paper and official"),
        ("paper", "restarts", "--restarts is for --preset fast, folds and iterate"),
        ("fast", "layout", "--contexts is for --preset paper and official"),
    ],
)
def test_an_option_of_another_search_is_refused(preset: Preset, name: str, message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        settings_of(preset, **{name: 3})


def of(
    settings: FoldSettings | SweepSettings,
    server: Server,
    kind: str | None = None,
    train_from: str | None = None,
    epochs: int | None = None,
) -> object:
    purpose = "--preset folds and iterate" if isinstance(settings, SweepSettings) else None
    return trainer_of(
        server,
        purpose=purpose,
        kind=kind,  # type: ignore[arg-type]
        train_from=train_from,
        epochs=epochs,
    )


def test_a_search_that_trains_nothing_has_no_trainer_and_no_options_for_one() -> None:
    assert of(SweepSettings(), Server()) is None
    with pytest.raises(click.UsageError, match="--train-from is for"):
        of(SweepSettings(), Server(), train_from="x")
    with pytest.raises(click.UsageError, match="--epochs is for"):
        of(SweepSettings(), Server(), epochs=1)


def test_this_machine_trains_what_the_embedded_server_serves(tmp_path: Path) -> None:
    trainer = of(FoldSettings(), Server(), epochs=2)
    assert isinstance(trainer, LocalTrainer)
    assert trainer.settings.epochs == 2
    assert trainer._model == "gemma-3-270m"
    model = of(FoldSettings(), Server(gguf=tmp_path / "model.gguf"))
    assert isinstance(model, LocalTrainer)
    assert model._model == str(tmp_path / "model.gguf")


def test_the_weights_of_a_served_model_must_be_named() -> None:
    with pytest.raises(InputError, match="--train-from"):
        of(FoldSettings(), Server(url=("http://127.0.0.1:9",)))
    assert of(FoldSettings(), Server(url=("http://127.0.0.1:9",)), train_from="owner/name")


def test_a_service_trains_the_model_that_it_serves() -> None:
    one = Server(url=("http://127.0.0.1:9",), model="base")
    trainer = of(FoldSettings(), one, "served", epochs=1)
    assert isinstance(trainer, ServedTrainer)
    assert trainer.base == "base"
    assert trainer.settings.epochs == 1
    for server, message in [
        (Server(), "no service to train with"),
        (Server(url=("http://127.0.0.1:9",)), "--train-from"),
        (Server(url=("http://127.0.0.1:9", "http://127.0.0.1:8"), model="base"), "several"),
    ]:
        with pytest.raises(InputError, match=message):
            of(FoldSettings(), server, "served")
