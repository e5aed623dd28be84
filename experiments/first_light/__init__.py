"""Does it work? vanilla, doodl and sgool on 64 held-out prompts of the embedded world."""
