"""Records -> the summary, one HTML page, figures and terminal tables.

Needs no model and no data set.
"""
