"""Comparisons across many runs: evaluation against baselines, ablations, salience."""
