"""How networks are trained: one recipe per paper and data set."""
