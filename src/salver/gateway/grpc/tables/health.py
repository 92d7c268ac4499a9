"""``grpc.health.v1.Health``."""

from salver.gateway.grpc.tables.form import Calls, Enums, Messages

MESSAGES: Messages = {
    "HealthCheckRequest": (("service", 1, "string"),),
    "HealthCheckResponse": (("status", 1, "HealthCheckResponse.ServingStatus"),),
}
ENUMS: Enums = {
    "HealthCheckResponse.ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
}
CALLS: Calls = {
    "Check": ("HealthCheckRequest", "HealthCheckResponse"),
    "Watch": ("HealthCheckRequest", "*HealthCheckResponse"),
}
