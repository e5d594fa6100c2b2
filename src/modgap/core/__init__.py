"""What every other part of modgap stands on: problems, views, prompts, recipes, grades, records,
statistics.

Imports nothing else of modgap and needs no torch.
"""
