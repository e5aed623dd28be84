"""Other names of settings, as tables of prompts and other programs call them."""

from __future__ import annotations

_GUIDANCE, _STEPS, _SAMPLER = "sampler.guidance_scale", "sampler.num_inference_steps", "sampler"
#: Name -> the key of the configuration that sets the same.
SETTINGS = {
    "guidance_scale": _GUIDANCE, "guidance": _GUIDANCE, "cfg": _GUIDANCE, "cfg_scale": _GUIDANCE,
    "num_inference_steps": _STEPS, "inference_steps": _STEPS, "steps": _STEPS, "step": _STEPS, "num_steps": _STEPS,
    "sampler": _SAMPLER, "scheduler": _SAMPLER, "height": "models.height", "width": "models.width",
    "model": "models.path", "dtype": "models.dtype", "seeds": "data.seeds", "negative": "data.negative_prompt",
    "neg_prompt": "data.negative_prompt", "num_optimization_steps": "optimization.num_optimization_steps",
    "updates": "optimization.num_optimization_steps", "lr": "optimization.lr",
    "learning_rate": "optimization.lr", "momentum": "optimization.momentum", "method": "methods", "methods": "methods",
    "objective": "objective",
}  # fmt: skip
#: The same for names that a table's columns have a meaning of their own for.
OF_COLUMNS = {"prompt": "data.prompts", "seed": "data.seeds"}
