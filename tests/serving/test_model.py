"""What MODEL refers to, and what is said where it refers to nothing."""

from pathlib import Path

import pytest

from icm_client.errors import InputError
from icm_client.serving.model import find


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("./none", "no such file or folder"),
        ("/none/at/all", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("none.gguf", "no such file or folder"),
        (".", "no config.json in this folder"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(model: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        find(model)


def test_a_folder_without_weights_and_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        find(str(tmp_path))
    with pytest.raises(InputError, match="a file that is not GGUF"):
        find(str(tmp_path / "config.json"))


def test_a_hubs_model_is_taken_by_its_name_and_sized_if_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert find("google/gemma-3-270m").weights is None
    snapshot = tmp_path / "hub" / "hub" / "models--google--gemma-3-270m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"\0" * 123)
    assert find("google/gemma-3-270m").weights == 123
