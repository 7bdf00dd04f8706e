"""Upload a dataset folder to a hub, as a repository of `datasets`."""

import os
from typing import TYPE_CHECKING

from icm_client.data.messages import shown
from icm_client.errors import InputError, SetupError
from icm_client.training.exports import Export

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_KIND = "dataset"
_NOT_ALLOWED = (401, 403)


def check_push(repository: str) -> None:
    """Return if this may name a repository, and the library that uploads to it is there.

    Raises:
        InputError: it is not OWNER/NAME, or a hub takes no such name.
        SetupError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import utils  # noqa: PLC0415 - an optional extra, and slow to load
        from huggingface_hub.errors import HFValidationError  # noqa: PLC0415
    except ImportError:
        raise SetupError("--push needs huggingface_hub: pip install 'icm-client[remote]'") from None
    if repository.count("/") != 1:
        raise InputError(f"{shown(repository)} names no repository: write it as OWNER/NAME")
    try:
        utils.validate_repo_id(repository)  # type: ignore[attr-defined]  # documented all the same
    except HFValidationError as problem:
        raise InputError(f"{shown(repository)} names no repository: {problem}") from None


def push(export: Export, repository: str, *, public: bool = False) -> str:
    """Upload the folder of an `hf` export and return the repository's address.

    The repository is created if it is not there, private unless `public`. One that is there keeps
    its other files, gets the folder's as one commit, and is as visible as it was. The hub's address
    is that of HF_ENDPOINT, if set, and who uploads is known by HF_TOKEN or `hf auth login`.

    Raises:
        InputError: public labels that are not to be trusted; a repository that is public already,
            or private where `public` was asked for; the hub cannot be reached, or refuses.
        SetupError: huggingface_hub is not installed.
    """
    check_push(repository)
    if export.format != "hf":
        raise InputError(f"a folder of --to hf is uploaded, not {export.format}")
    if public and export.verdict == "do not trust":
        raise InputError(
            'the verdict on these labels is "do not trust": they are not published. Without '
            "--public they go to a private repository"
        )
    import httpx2  # noqa: PLC0415
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError  # noqa: PLC0415

    api = HfApi(library_name="icm-client")
    try:
        _prepare(api, repository, public=public)
        api.upload_folder(
            repo_id=repository,
            repo_type=_KIND,
            folder_path=export.path,
            commit_message=f"{export.records} rows labelled by icm-client",
        )
    except LocalTokenNotFoundError:
        why = "you are not logged in: hf auth login, or set HF_TOKEN"
    except HfHubHTTPError as problem:
        why = _reason(problem.response.status_code, problem.server_message)
    except (httpx2.TransportError, OSError) as problem:
        why = f"{api.endpoint} cannot be reached ({type(problem).__name__})"
    else:
        return f"{api.endpoint}/datasets/{repository}"
    raise InputError(
        f"{repository}: {why}. The folder is written: "
        f"hf upload --repo-type dataset {repository} {os.fspath(export.path)} uploads it too"
    )


def _prepare(api: "HfApi", repository: str, *, public: bool) -> None:
    """Create the repository, or check that one that is there is as visible as was asked for."""
    if not api.repo_exists(repository, repo_type=_KIND):
        api.create_repo(repository, repo_type=_KIND, private=not public)
        return
    is_public = not api.dataset_info(repository).private
    if is_public and not public:
        raise InputError(
            f"{repository} is there and public: everyone would see these rows. If that is meant, "
            "add --public; else name another repository"
        )
    if public and not is_public:
        raise InputError(
            f"{repository} is there and private: leave out --public, or change its visibility in "
            "its settings first"
        )


def _reason(status: int, said: str | None) -> str:
    if status in _NOT_ALLOWED:
        return (
            f"the hub refuses it ({status}): log in (hf auth login, or HF_TOKEN) with a token that "
            "may write there"
        )
    return f"the hub answers {status}" + (f" ({said})" if said else "")
