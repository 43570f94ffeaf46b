"""An OpenAI-compatible endpoint of any model that can be asked here."""
