"""The base of modgap: problems, views, prompts, engines, images, recipes and run folders.

Imports nothing else of modgap and needs no torch.
"""
