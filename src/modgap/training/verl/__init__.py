"""The engine `verl`: a recipe as verl's configuration, and what runs inside verl."""
