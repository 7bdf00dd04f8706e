"""Train a model on a run's labels: `python scripts/finetune.py RUN`, as `icm-client finetune` does.

The other way is Python: `fine_tune(read_labels(folder), LocalTrainer(...))`.
"""

import sys

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)

from icm_client.cli.finetune import finetune_command
from icm_client.cli.main import main

if __name__ == "__main__":
    main(finetune_command)
