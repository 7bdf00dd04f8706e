"""Lines of bash, in which `icm` is the command."""

import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import anyio

ICM = shlex.join([sys.executable, "-c", "from icm_client.cli.main import main; main()"])


class Done(NamedTuple):
    status: int
    out: str
    err: str


async def shell(folder: Path, line: str, **environment: str) -> Done:
    """Run a line of bash, in which `icm` is the command."""
    done = await anyio.run_process(
        ["bash", "-o", "pipefail", "-c", f'icm() {{ {ICM} "$@"; }}; {line}'],
        cwd=folder,
        env={**os.environ, "ICM_CACHE_DIR": str(folder / "cache"), **environment},
        check=False,
    )
    return Done(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))
