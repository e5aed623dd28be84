"""Personalisation: guidance toward a reference image that the prompt does not describe."""
