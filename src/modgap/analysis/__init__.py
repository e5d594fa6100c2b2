"""Records -> numbers: the gap and its tests, summaries, seeds, power, and what a model read from
the diagram.
"""
