"""Whether labels can be trusted. Start with `diagnosis.py`: it makes every verdict."""
