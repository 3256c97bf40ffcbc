"""Preparation: from sources to stores, in parts that can be made by many processes and resumed."""
