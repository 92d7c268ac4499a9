"""The Python client: push, deploy and predict, synchronous or asynchronous."""
