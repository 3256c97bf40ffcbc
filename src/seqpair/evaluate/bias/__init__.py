"""Gender in pronouns: Winogender by the published rule and by corrected ones, against labour statistics."""
