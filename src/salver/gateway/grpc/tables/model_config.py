"""The parts of Triton's model configuration that have a meaning here."""

from salver.gateway.grpc.tables.form import Enums, Messages

MESSAGES: Messages = {
    "ModelConfig": (
        ("name", 1, "string"),
        ("platform", 2, "string"),
        ("version_policy", 3, "ModelVersionPolicy"),
        ("max_batch_size", 4, "int32"),
        ("input", 5, "*ModelInput"),
        ("output", 6, "*ModelOutput"),
        ("instance_group", 7, "*ModelInstanceGroup"),
        ("default_model_filename", 8, "string"),
        ("dynamic_batching", 11, "scheduling_choice|ModelDynamicBatching"),
        ("parameters", 14, "%ModelParameter"),
        ("model_warmup", 16, "*ModelWarmup"),
        ("backend", 17, "string"),
        ("model_transaction_policy", 19, "ModelTransactionPolicy"),
        ("response_cache", 24, "ModelResponseCache"),
    ),
    "ModelVersionPolicy": (("specific", 3, "policy_choice|ModelVersionPolicy.Specific"),),
    "ModelVersionPolicy.Specific": (("versions", 1, "*int64"),),
    "ModelInput": (
        ("name", 1, "string"),
        ("data_type", 2, "DataType"),
        ("format", 3, "ModelInput.Format"),
        ("dims", 4, "*int64"),
        ("optional", 8, "bool"),
    ),
    "ModelOutput": (("name", 1, "string"), ("data_type", 2, "DataType"), ("dims", 3, "*int64")),
    "ModelInstanceGroup": (
        ("name", 1, "string"),
        ("count", 2, "int32"),
        ("kind", 4, "ModelInstanceGroup.Kind"),
    ),
    "ModelDynamicBatching": (
        ("preferred_batch_size", 1, "*int32"),
        ("max_queue_delay_microseconds", 2, "uint64"),
        ("default_queue_policy", 6, "ModelQueuePolicy"),
    ),
    "ModelQueuePolicy": (("max_queue_size", 4, "uint32"),),
    "ModelParameter": (("string_value", 1, "string"),),
    "ModelWarmup": (("name", 1, "string"),),
    "ModelTransactionPolicy": (("decoupled", 1, "bool"),),
    "ModelResponseCache": (("enable", 1, "bool"),),
}
ENUMS: Enums = {
    "DataType": (
        "TYPE_INVALID",
        "TYPE_BOOL",
        "TYPE_UINT8",
        "TYPE_UINT16",
        "TYPE_UINT32",
        "TYPE_UINT64",
        "TYPE_INT8",
        "TYPE_INT16",
        "TYPE_INT32",
        "TYPE_INT64",
        "TYPE_FP16",
        "TYPE_FP32",
        "TYPE_FP64",
        "TYPE_STRING",
        "TYPE_BF16",
    ),
    "ModelInput.Format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
    "ModelInstanceGroup.Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
}
