"""Whether labels can be trusted: findings about a search, and the verdict they add up to."""
