"""Stop a child process that ends when its stdin closes, as it does when its parent dies."""

from contextlib import suppress

import anyio
from anyio.abc import Process


async def stop_child(process: Process) -> None:
    """Close the child's stdin, which ends it, and wait 5 seconds; then kill it."""
    if process.stdin is not None:
        with suppress(OSError, anyio.BrokenResourceError):
            await process.stdin.aclose()
    with anyio.move_on_after(5.0):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()
