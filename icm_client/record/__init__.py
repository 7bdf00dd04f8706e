"""A run's folder: what is written there, and read again by every command that comes later."""
