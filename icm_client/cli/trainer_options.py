"""Options that say what trains models, for the presets folds and iterate and for --finetune."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import click

from icm_client.cache import cache_folder
from icm_client.cli.sections import Decorator, section
from icm_client.errors import InputError
from icm_client.runs.server import Server
from icm_client.runs.trainer import Trainer
from icm_client.serving.model import BUNDLED
from icm_client.settings import Environment

if TYPE_CHECKING:
    from icm_client.training.local import LocalTrainer
    from icm_client.training.local_settings import LocalSettings
    from icm_client.training.served import ServedTrainer
    from icm_client.training.served_job import ServedSettings

F = TypeVar("F", bound=Callable[..., None])

TrainerKind = Literal["local", "served"]


def trainer_options(what: str) -> Decorator:
    """Return a decorator that adds the options; `what` says in their help what trains."""
    options = (
        click.option(
            "--trainer",
            "trainer_kind",
            type=click.Choice(get_args(TrainerKind)),
            help=f"{what}: what trains: torch on this machine, or the endpoint's fine-tuning API. "
            "[default: local]",
        ),
        click.option(
            "--train-from",
            metavar="MODEL",
            help=f"{what}: the model to train from: a folder, a GGUF file, a hub's OWNER/NAME, "
            "or the service's name for it. [default: the embedded server's]",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(1),
            help=f"{what}: training epochs. [default: 3]",
        ),
    )

    return section("Training", *options)


def trainer_of(
    server: Server,
    *,
    purpose: str | None,
    kind: TrainerKind | None,
    train_from: str | None,
    epochs: int | None,
) -> Trainer | None:
    """The trainer that the options describe; None where nothing is trained.

    Then `purpose` says what the options are for. Without `train_from` the model is the embedded
    server's, where that is the endpoint, and a service's where its name is known.

    Raises:
        click.UsageError: options of training where nothing is trained.
        InputError: no model to train from is named, or no service.
    """
    if purpose is not None:
        given = {"--trainer": kind, "--train-from": train_from, "--epochs": epochs}
        for option, value in given.items():
            if value is not None:
                raise click.UsageError(f"{option} is for {purpose}.")
        return None
    if kind == "served":
        # Only what trains needs it.
        from icm_client.training.served_job import ServedSettings  # noqa: PLC0415

        return served_trainer(
            server,
            train_from or server.model or Environment().model,
            ServedSettings() if epochs is None else ServedSettings(epochs=epochs),
            cache_folder() / "trainings",
        )
    from icm_client.training.local_settings import LocalSettings  # noqa: PLC0415 - as above

    settings = LocalSettings() if epochs is None else LocalSettings(epochs=epochs)
    return local_trainer(server, train_from, settings)


def local_trainer(
    server: Server, train_from: str | None, settings: "LocalSettings", folder: Path | None = None
) -> "LocalTrainer":
    """Torch on this machine; trained models go to `folder`, or the user's cache folder.

    Raises:
        InputError: no model to train from is named.
    """
    from icm_client.training.local import LocalTrainer  # noqa: PLC0415 - only what trains needs it

    if train_from is None:
        if (server.url or Environment().endpoint) is not None:
            raise InputError(
                "no model to train from is named: the endpoint serves one, but does not give its "
                "weights. Name it with --train-from (a folder or a hub's OWNER/NAME), best the one "
                "that is served"
            )
        train_from = BUNDLED if server.gguf is None else str(server.gguf)
    return LocalTrainer(train_from, folder=folder, settings=settings, say=say)


def served_trainer(
    server: Server,
    base: str | None,
    settings: "ServedSettings",
    folder: Path,
    *,
    base_option: str = "--train-from",
) -> "ServedTrainer":
    """A service with OpenAI's fine-tuning API, which trains from the model that it calls `base`.

    The state of trainings is kept in `folder`; `base_option` names the model on the command line.

    Raises:
        InputError: no service is named, or several; no model to train from is named.
    """
    from icm_client.training.served import ServedTrainer  # noqa: PLC0415 - only what trains needs it

    environment = Environment()
    url = server.url or environment.endpoint
    if url is None:
        raise InputError("no service to train with: name it with --endpoint URL or ICM_ENDPOINT")
    if not isinstance(url, str):
        if len(url) > 1:
            raise InputError("one service trains, and several are named: name it alone")
        url = url[0]
    if base is None:
        raise InputError(f"no model to train from: name one of the service's with {base_option}")
    return ServedTrainer(
        url,
        base,
        folder=folder,
        api_key=environment.api_key,
        settings=settings,
        transport=server.transport,
        allow_floor=server.allow_floor,
    )


def say(words: str) -> None:
    """Print what a training reports, on standard error."""
    click.echo(words, err=True)


lora_option = click.option(
    "--lora/--full", default=True, help="Train adapters, or all weights. [default: lora]"
)


def epochs_option(default: int) -> Callable[[F], F]:
    """Return a decorator that adds `--epochs`."""
    return click.option(
        "--epochs",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help="Training epochs.",
    )


rate_option = click.option(
    "--lr",
    "rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The learning rate. [default: the paper's, scaled by size]",
)
