"""The options that say what trains the models of --preset folds and --preset iterate."""

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import click

from icm_client.endpoints.cache import cache_folder
from icm_client.errors import InputError
from icm_client.runs.presets import Settings, TrainedSettings
from icm_client.runs.server import Server
from icm_client.serving.model import BUNDLED
from icm_client.settings import Environment
from icm_client.training.trainer import Trainer

F = TypeVar("F", bound=Callable[..., None])

TrainerKind = Literal["local", "served"]

_OPTIONS = (
    click.option(
        "--trainer",
        "trainer_kind",
        type=click.Choice(get_args(TrainerKind)),
        help="folds, iterate: what trains: torch on this machine, or the endpoint's fine-tuning "
        "API. [default: local]",
    ),
    click.option(
        "--train-from",
        metavar="MODEL",
        help="folds, iterate: the model that is trained: a folder, a GGUF file, a hub's "
        "OWNER/NAME, or the service's name for it. [default: the embedded server's]",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(1),
        help="folds, iterate: times that a training sees every label. [default: 3]",
    ),
)


def trainer_options(command: F) -> F:
    """Add the options to a command; it receives them by name, for `trainer_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def trainer_of(
    settings: Settings,
    server: Server,
    *,
    kind: TrainerKind | None,
    train_from: str | None,
    epochs: int | None,
) -> Trainer | None:
    """The trainer that the options describe; None where the search trains nothing.

    Args:
        settings: of the search.
        server: where the base model is served.
        kind: None takes this machine.
        train_from: the model; None takes the embedded server's, where that is the endpoint, and a
            service's where its name is known.
        epochs: None takes the trainer's own.

    Raises:
        click.UsageError: options of training for a search that trains nothing.
        InputError: nobody says which model is to be trained, or where.
    """
    if not isinstance(settings, TrainedSettings):
        given = {"--trainer": kind, "--train-from": train_from, "--epochs": epochs}
        for option, value in given.items():
            if value is not None:
                raise click.UsageError(f"{option} is for --preset folds and iterate.")
        return None
    if kind == "served":
        return _served(server, train_from, epochs)
    return _local(server, train_from, epochs)


def _local(server: Server, train_from: str | None, epochs: int | None) -> Trainer:
    # Only a search that trains needs them.
    from icm_client.training.local import LocalTrainer  # noqa: PLC0415
    from icm_client.training.local_settings import LocalSettings  # noqa: PLC0415

    if train_from is None:
        if (server.url or Environment().endpoint) is not None:
            raise InputError(
                "which model is trained? The endpoint serves one, but does not give its weights: "
                "name it with --train-from (a folder or a hub's OWNER/NAME), best the one served"
            )
        train_from = BUNDLED if server.gguf is None else str(server.gguf)
    settings = LocalSettings() if epochs is None else LocalSettings(epochs=epochs)
    return LocalTrainer(train_from, settings=settings, say=_say)


def _served(server: Server, train_from: str | None, epochs: int | None) -> Trainer:
    # Only a search that trains needs them.
    from icm_client.training.served import ServedTrainer  # noqa: PLC0415
    from icm_client.training.served_settings import ServedSettings  # noqa: PLC0415

    environment = Environment()
    url = server.url or environment.endpoint
    base = train_from or server.model or environment.model
    if url is None:
        raise InputError("which service trains? Name it with --endpoint or ICM_ENDPOINT")
    if not isinstance(url, str):
        if len(url) > 1:
            raise InputError("several servers were named; a fine-tuning API is one of them")
        url = url[0]
    if base is None:
        raise InputError("which of the service's models is trained? Name it with --train-from")
    return ServedTrainer(
        url,
        base,
        folder=cache_folder() / "trainings",
        api_key=environment.api_key,
        settings=ServedSettings() if epochs is None else ServedSettings(epochs=epochs),
        transport=server.transport,
        allow_floor=server.allow_floor,
    )


def _say(words: str) -> None:
    click.echo(words, err=True)
