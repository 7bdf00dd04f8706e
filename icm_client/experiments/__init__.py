"""Comparisons across many runs, and the estimate before one.

- `icm-client eval`: `evaluation` plans, `evaluation_run` runs, `evaluation_results` tabulates;
  `baselines` are what ICM is compared with, `finetuned` trains on the labels.
- `icm-client ablate`: `ablation`, all three in one.
- `icm-client salience`: `salience`.
- All of them: `comparison` (sample, cost, fatal errors, CSV) and `figures` (pictures).
"""
