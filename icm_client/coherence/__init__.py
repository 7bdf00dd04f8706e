"""The method: Internal Coherence Maximization (arXiv 2506.10139). Pure: no sockets, files, clock."""
