"""Small real programs; each is run by a test."""
