"""KServe's V1 protocol and TensorFlow Serving's REST API, which share their paths."""
