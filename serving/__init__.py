"""Model server with TF Serving's API, typed client and deployment files.

Import what you need: `serving.server.ModelServer`, `serving.client.RecommenderClient`.
"""

import warnings

# Python 3.10 is the newest that TFX 1.16 runs on; Google's libraries say so at every import.
warnings.filterwarnings("ignore", "You are using a non-supported Python version", FutureWarning)
