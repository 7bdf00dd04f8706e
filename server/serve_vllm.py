"""vLLM for many short requests: python server/serve_vllm.py MODEL (see `--help` and `--print`).

It is the same command as `icm-client serve MODEL`; docs/serving.md explains every flag.
"""

import sys

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "server/install-vllm, then use .venv-vllm/bin/python\n"
    )
    sys.exit(2)

from icm_client.cli.main import main
from icm_client.cli.serve import serve_command

if __name__ == "__main__":
    main(serve_command)
