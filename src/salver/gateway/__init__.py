"""The processes that answer clients: wire protocols on one side, requests on the other."""
