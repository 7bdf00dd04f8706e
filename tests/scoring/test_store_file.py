from pathlib import Path

import pytest

from icm_client.scoring.store import ScoreStore
from icm_client.scoring.store_file import network_warning

MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
server:/homes {home} nfs4 rw 0 0
me@host:/ {home}/with\040space fuse.sshfs rw 0 0
/dev/sdb1 {home}/local ext4 rw 0 0
//host/share {home}/hidden cifs rw 0 0
tmpfs {home}/hidden tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("", "nfs4"),
        ("deep/er", "nfs4"),
        ("with space/x", "fuse.sshfs"),
        ("local", None),
        ("localised", "nfs4"),
        ("hidden", None),
        ("..", None),
    ],
)
def test_a_store_on_a_network_file_system_is_warned_of(
    tmp_path: Path, folder: str, kind: str | None
) -> None:
    home = tmp_path.resolve() / "home"
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.format(home=home))
    warning = network_warning(home / folder / "scores.sqlite3", mounts)
    if kind is None:
        assert warning is None
    else:
        assert warning is not None
        assert f"network file system ({kind})" in warning
        assert "ICM_CACHE_DIR" in warning


def test_a_link_leads_to_where_the_store_really_is(tmp_path: Path) -> None:
    home = tmp_path.resolve() / "home"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.format(home=home))
    assert network_warning(tmp_path / "link" / "scores.sqlite3", mounts) is not None


def test_without_a_readable_list_of_mounts_there_is_no_warning(tmp_path: Path) -> None:
    assert network_warning(tmp_path, tmp_path / "no such file") is None
    mounts = tmp_path / "mounts"
    mounts.write_bytes(b"\xff\xfe garbage\n\n")
    assert network_warning(tmp_path, mounts) is None


def test_an_opened_store_carries_the_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icm_client.scoring.store.network_warning", lambda path: f"slow {path}")
    path = tmp_path / "scores.sqlite3"
    with ScoreStore.open(path) as store:
        assert store.notices == (f"slow {path}",)
