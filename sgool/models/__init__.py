"""Frozen networks (diffusion models, CLIP towers, classifiers, scorers) and how they are loaded."""
