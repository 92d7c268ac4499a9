"""``grpc.reflection``, whose two versions say the same in packages of their own."""

from salver.gateway.grpc.tables.form import Calls, Messages

MESSAGES: Messages = {
    "ServerReflectionRequest": (
        ("host", 1, "string"),
        ("file_by_filename", 3, "message_request|string"),
        ("file_containing_symbol", 4, "message_request|string"),
        ("file_containing_extension", 5, "message_request|ExtensionRequest"),
        ("all_extension_numbers_of_type", 6, "message_request|string"),
        ("list_services", 7, "message_request|string"),
    ),
    "ExtensionRequest": (("containing_type", 1, "string"), ("extension_number", 2, "int32")),
    "ServerReflectionResponse": (
        ("valid_host", 1, "string"),
        ("original_request", 2, "ServerReflectionRequest"),
        ("file_descriptor_response", 4, "message_response|FileDescriptorResponse"),
        ("all_extension_numbers_response", 5, "message_response|ExtensionNumberResponse"),
        ("list_services_response", 6, "message_response|ListServiceResponse"),
        ("error_response", 7, "message_response|ErrorResponse"),
    ),
    "FileDescriptorResponse": (("file_descriptor_proto", 1, "*bytes"),),
    "ExtensionNumberResponse": (
        ("base_type_name", 1, "string"),
        ("extension_number", 2, "*int32"),
    ),
    "ListServiceResponse": (("service", 1, "*ServiceResponse"),),
    "ServiceResponse": (("name", 1, "string"),),
    "ErrorResponse": (("error_code", 1, "int32"), ("error_message", 2, "string")),
}
CALLS: Calls = {"ServerReflectionInfo": ("*ServerReflectionRequest", "*ServerReflectionResponse")}
