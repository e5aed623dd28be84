"""Methods: how a batch of prompt-seed pairs becomes images."""
