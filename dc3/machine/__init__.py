"""Disk, processes and devices: what the method stands on, and knows nothing of it."""
