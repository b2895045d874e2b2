"""Image sets and files: numpy and PIL alone, never torch."""
