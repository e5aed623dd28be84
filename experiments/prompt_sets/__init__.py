"""Scores on three kinds of prompts, as in SGOOL's table: grammar, categories, descriptions."""
