"""Disk, processes and devices: the ground under the method, which knows nothing of it."""
