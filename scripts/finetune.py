"""Train a model on a run's labels: `python scripts/finetune.py RUN`, as `icm-client finetune` does.

The other way is Python: `fine_tune(read_labels(folder), LocalTrainer(...))`.
"""

from icm_client.cli.finetune import finetune_command

if __name__ == "__main__":
    finetune_command()
