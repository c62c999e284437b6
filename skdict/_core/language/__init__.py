"""Networks and texts: what is run, what is read inside it, and which token is where."""
