"""Label jobs: from checked input, over a search, to labels."""
