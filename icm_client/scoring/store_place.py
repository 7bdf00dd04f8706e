"""Where a score store lies: SQLite's write-ahead log needs one computer and its memory."""

from pathlib import Path

_MOUNTS = Path("/proc/mounts")
_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p"),
        *("lustre", "ceph", "beegfs", "gpfs", "glusterfs", "davfs", "pvfs2", "orangefs"),
        *("fuse.sshfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"),
    )
)


def network_warning(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return a sentence for the user where `path` lies on a network file system, else None.

    Two computers that write there at once can lose answers or damage the file
    (https://sqlite.org/wal.html). Only Linux tells, in `mounts`.
    """
    kind = _file_system(path, mounts)
    if kind not in _NETWORK:
        return None
    return (
        f"the score store {path} lies on a network file system ({kind}): if two computers write "
        "to it at once, answers can be lost. Set ICM_CACHE_DIR to a folder on a local disk."
    )


def _file_system(path: Path, mounts: Path) -> str | None:
    """Return the kind of file system that `path` lies on; None where nothing tells."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    found: tuple[int, str | None] = (-1, None)
    for line in lines:
        _, _, rest = line.partition(" ")
        point, _, rest = rest.partition(" ")
        folder = Path(_unescaped(point))
        # Of two on one folder, the later one hides the earlier.
        if place.is_relative_to(folder) and len(folder.parts) >= found[0]:
            found = (len(folder.parts), rest.partition(" ")[0])
    return found[1]


def _unescaped(point: str) -> str:
    """Undo the octal escapes of spaces and the like (man 5 proc, man 3 getmntent)."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        point = point.replace(code, character)
    return point
