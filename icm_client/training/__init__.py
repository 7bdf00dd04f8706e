"""From labels to a model: exports, training here or on a server, and what both have in common."""
