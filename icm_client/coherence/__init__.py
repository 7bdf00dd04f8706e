"""The method: Internal Coherence Maximization (arXiv 2506.10139). No sockets, files or clock."""
