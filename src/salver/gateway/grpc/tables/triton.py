"""The calls that Triton adds to the service."""

from salver.gateway.grpc.tables.form import Calls, Field, Messages

_NAMED: tuple[Field, ...] = (("name", 1, "string"), ("version", 2, "string"))
_CHANGE: tuple[Field, ...] = (
    ("repository_name", 1, "string"),
    ("model_name", 2, "string"),
    ("parameters", 3, "%ModelRepositoryParameter"),
)
_LOG_VALUE: tuple[Field, ...] = (
    ("bool_param", 1, "parameter_choice|bool"),
    ("uint32_param", 2, "parameter_choice|uint32"),
    ("string_param", 3, "parameter_choice|string"),
)
_DURATIONS = ("compute_input", "compute_infer", "compute_output")

STATISTICS: Messages = {
    "ModelStatisticsRequest": _NAMED,
    "ModelStatisticsResponse": (("model_stats", 1, "*ModelStatistics"),),
    "ModelStatistics": (
        ("name", 1, "string"),
        ("version", 2, "string"),
        ("last_inference", 3, "uint64"),
        ("inference_count", 4, "uint64"),
        ("execution_count", 5, "uint64"),
        ("inference_stats", 6, "InferStatistics"),
        ("batch_stats", 7, "*InferBatchStatistics"),
        ("memory_usage", 8, "*MemoryUsage"),
        ("response_stats", 9, "%InferResponseStatistics"),
    ),
    "StatisticDuration": (("count", 1, "uint64"), ("ns", 2, "uint64")),
    "InferStatistics": tuple(
        (name, number, "StatisticDuration")
        for number, name in enumerate(
            ("success", "fail", "queue", *_DURATIONS, "cache_hit", "cache_miss"), start=1
        )
    ),
    "InferBatchStatistics": (
        ("batch_size", 1, "uint64"),
        *((name, number, "StatisticDuration") for number, name in enumerate(_DURATIONS, start=2)),
    ),
    "InferResponseStatistics": tuple(
        (name, number, "StatisticDuration")
        for number, name in enumerate(
            ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel"),
            start=1,
        )
    ),
    "MemoryUsage": (("type", 1, "string"), ("id", 2, "int64"), ("byte_size", 3, "uint64")),
}
MEMORY: Messages = {
    "SystemSharedMemoryStatusRequest": (("name", 1, "string"),),
    "SystemSharedMemoryStatusResponse": (
        ("regions", 1, "%SystemSharedMemoryStatusResponse.RegionStatus"),
    ),
    "SystemSharedMemoryStatusResponse.RegionStatus": (
        ("name", 1, "string"),
        ("key", 2, "string"),
        ("offset", 3, "uint64"),
        ("byte_size", 4, "uint64"),
    ),
    "SystemSharedMemoryRegisterRequest": (
        ("name", 1, "string"),
        ("key", 2, "string"),
        ("offset", 3, "uint64"),
        ("byte_size", 4, "uint64"),
    ),
    "SystemSharedMemoryRegisterResponse": (),
    "SystemSharedMemoryUnregisterRequest": (("name", 1, "string"),),
    "SystemSharedMemoryUnregisterResponse": (),
    "CudaSharedMemoryStatusRequest": (("name", 1, "string"),),
    "CudaSharedMemoryStatusResponse": (
        ("regions", 1, "%CudaSharedMemoryStatusResponse.RegionStatus"),
    ),
    "CudaSharedMemoryStatusResponse.RegionStatus": (
        ("name", 1, "string"),
        ("device_id", 2, "uint64"),
        ("byte_size", 3, "uint64"),
    ),
    "CudaSharedMemoryRegisterRequest": (
        ("name", 1, "string"),
        ("raw_handle", 2, "bytes"),
        ("device_id", 3, "int64"),
        ("byte_size", 4, "uint64"),
    ),
    "CudaSharedMemoryRegisterResponse": (),
    "CudaSharedMemoryUnregisterRequest": (("name", 1, "string"),),
    "CudaSharedMemoryUnregisterResponse": (),
}
MESSAGES: Messages = {
    "ModelStreamInferResponse": (
        ("error_message", 1, "string"),
        ("infer_response", 2, "ModelInferResponse"),
    ),
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": (("config", 1, "ModelConfig"),),
    **STATISTICS,
    "RepositoryIndexRequest": (("repository_name", 1, "string"), ("ready", 2, "bool")),
    "RepositoryIndexResponse": (("models", 1, "*RepositoryIndexResponse.ModelIndex"),),
    "RepositoryIndexResponse.ModelIndex": (
        ("name", 1, "string"),
        ("version", 2, "string"),
        ("state", 3, "string"),
        ("reason", 4, "string"),
    ),
    "ModelRepositoryParameter": (
        ("bool_param", 1, "parameter_choice|bool"),
        ("int64_param", 2, "parameter_choice|int64"),
        ("string_param", 3, "parameter_choice|string"),
        ("bytes_param", 4, "parameter_choice|bytes"),
    ),
    "RepositoryModelLoadRequest": _CHANGE,
    "RepositoryModelLoadResponse": (),
    "RepositoryModelUnloadRequest": _CHANGE,
    "RepositoryModelUnloadResponse": (),
    "TraceSettingRequest": (
        ("settings", 1, "%TraceSettingRequest.SettingValue"),
        ("model_name", 2, "string"),
    ),
    "TraceSettingRequest.SettingValue": (("value", 1, "*string"),),
    "TraceSettingResponse": (("settings", 1, "%TraceSettingResponse.SettingValue"),),
    "TraceSettingResponse.SettingValue": (("value", 1, "*string"),),
    "LogSettingsRequest": (("settings", 1, "%LogSettingsRequest.SettingValue"),),
    "LogSettingsRequest.SettingValue": _LOG_VALUE,
    "LogSettingsResponse": (("settings", 1, "%LogSettingsResponse.SettingValue"),),
    "LogSettingsResponse.SettingValue": _LOG_VALUE,
    **MEMORY,
}
CALLS: Calls = {
    "ModelStreamInfer": ("*ModelInferRequest", "*ModelStreamInferResponse"),
    **{
        name: (f"{name}Request", f"{name}Response")
        for name in (
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
            "TraceSetting",
            "LogSettings",
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
        )
    },
}
