"""Networks and pipelines: what is loaded, trained and asked."""
