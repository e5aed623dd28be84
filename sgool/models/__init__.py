"""Frozen networks: diffusion components and CLIP towers, and where they come from."""
