"""The runs of a folder in a browser: live while other processes work on them, to check and compare.

A run's folder is the only thing that is read: nothing here needs the process that runs.
"""
