"""Records and diagnoses the gradient norm of every layer."""
