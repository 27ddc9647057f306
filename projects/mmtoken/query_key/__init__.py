"""Query-key interaction."""
