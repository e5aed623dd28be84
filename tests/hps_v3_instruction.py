"""Stands for the authors' file with HPSv3's instruction; the texts are our own."""

INSTRUCTION = """
Rate the picture.
Prompt: {text_prompt}
"""

prompt_with_special_token = """
Your rating: <|Reward|>

Done
"""

prompt_without_special_token = "Rate."
