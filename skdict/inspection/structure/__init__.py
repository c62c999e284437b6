"""How features relate to each other."""
