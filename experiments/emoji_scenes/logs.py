"""Where the stages of the emoji scenes log."""

from __future__ import annotations

#: Name -> folder of its log pieces in the work folder.
FOLDERS = {
    "vae": "vae",
    "guide": "guide",
    "denoiser": "transformer",
    "reader": "reader",
    "judge": "judge",
    "saliency": "saliency",
    "consistency": "consistency",
    "matching": "matching",
}
