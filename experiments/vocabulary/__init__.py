"""Vocabulary expansion: guidance by a small classifier toward a class that the prompt does not name."""
