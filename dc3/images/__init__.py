"""Image sets and files: only numpy and PIL, never torch."""
