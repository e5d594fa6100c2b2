"""The engine `verl`: a recipe as verl's configuration, and the code that runs inside verl."""
