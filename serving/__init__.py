"""Model server with TF Serving's API, typed client and deployment files."""
