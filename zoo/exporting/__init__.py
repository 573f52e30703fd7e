"""Export for TF Serving and other runtimes."""
