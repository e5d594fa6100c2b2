"""The attacks of bench/attack.py, one file for each kind."""
