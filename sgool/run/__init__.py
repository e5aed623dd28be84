"""The experiment runner: data, modules, callbacks and loggers brought to a Lightning Trainer, over a run folder."""
