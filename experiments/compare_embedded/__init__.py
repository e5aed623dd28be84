"""Which method wins? Six methods on 64 held-out prompts of the embedded world."""
