"""Model server with TF Serving's API, typed client and deployment files.

Import what you need: `serving.server.ModelServer`, `serving.client.RecommenderClient`.
"""
