"""Aesthetic editing: painted images whose rating by a known formula an edit is to raise."""
