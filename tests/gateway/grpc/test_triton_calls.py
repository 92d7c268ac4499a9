"""What Triton adds to the service, asked by the real gRPC library."""

import hashlib
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.gateway.grpc.calls import (
    SERVICE,
    call,
    infer,
    infer_request,
    message,
    outputs_of,
    refused,
    two_rows,
)
from tests.gateway.grpc.calls import refusal as infer_refusal
from tests.gateway.grpc.test_calls import serving

UNIMPLEMENTED = (grpc.StatusCode.UNIMPLEMENTED, "unsupported_operation")


def ask(channel: grpc.Channel, name: str, /, **fields: Any) -> Any:
    """Make a call of the service."""
    options = {"metadata": fields.pop("metadata")} if "metadata" in fields else {}
    return call(channel, f"{SERVICE}/{name}", message(f"{name}Request", **fields), **options)


def refusal(channel: grpc.Channel, name: str, /, **fields: Any) -> tuple[grpc.StatusCode, str]:
    """Return how a call of the service is refused."""
    return refused(channel, f"{SERVICE}/{name}", message(f"{name}Request", **fields))


def test_configuration(channel: grpc.Channel) -> None:
    """It says of tensors and batches what the document of REST says."""
    config = ask(channel, "ModelConfig", name="identity-bytes").config
    assert (config.name, config.platform, config.backend) == ("identity-bytes", "test", "test")
    assert list(config.version_policy.specific.versions) == [1]
    (item,) = config.input
    assert (item.name, item.data_type, list(item.dims)) == ("x", 13, [-1])
    assert config.max_batch_size > 1
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
    assert [(group.kind, group.count) for group in config.instance_group] == [(2, 1)]
    assert not config.model_transaction_policy.decoupled
    not_found = grpc.StatusCode.NOT_FOUND
    assert refusal(channel, "ModelConfig", name="none") == (not_found, "endpoint_not_found")
    missing = refusal(channel, "ModelConfig", name="two", version="9")
    assert missing == (not_found, "version_not_found")


def test_statistics() -> None:
    """Counters count what was asked over gRPC, of one endpoint or of all."""
    with serving() as (_, channel):
        for value in range(3):
            infer(channel, infer_request("identity-fp32", {"x": two_rows([value])}))
        failing = infer_request("identity-fp32", {"x": two_rows([1])})
        failing.parameters["fail"].bool_param = True
        with pytest.raises(grpc.RpcError):
            infer(channel, failing)
        (one,) = ask(channel, "ModelStatistics", name="identity-fp32").model_stats
        assert (one.name, one.version, one.inference_count) == ("identity-fp32", "1", 3)
        assert (one.inference_stats.success.count, one.inference_stats.fail.count) == (3, 1)
        assert one.last_inference > 0
        assert [item.batch_size for item in one.batch_stats] == [1]
        names = {item.name for item in ask(channel, "ModelStatistics").model_stats}
        assert {"two", "identity-fp32"} <= names
        assert "foreign" not in names


def test_index(channel: grpc.Channel) -> None:
    """It names what the caller may ask, and leaves out what is not ready when asked to."""
    models = {item.name: item for item in ask(channel, "RepositoryIndex").models}
    assert (models["two"].version, models["two"].state) == ("1", "READY")
    assert models["loading"].state == "UNAVAILABLE"
    assert models["loading"].reason == "its model is still loading"
    assert "foreign" not in models
    ready = {item.name for item in ask(channel, "RepositoryIndex", ready=True).models}
    assert "two" in ready
    assert "loading" not in ready
    assert refusal(channel, "RepositoryIndex", repository_name="x") == UNIMPLEMENTED


@pytest.mark.parametrize("name", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_nothing_is_changed_here(channel: grpc.Channel, name: str) -> None:
    """Loading and unloading say where that is done instead."""
    assert refusal(channel, name, model_name="two") == UNIMPLEMENTED


def test_settings_are_read(channel: grpc.Channel) -> None:
    """Trace and log settings are told as they are, and are not changed."""
    settings = ask(channel, "TraceSetting").settings
    assert list(settings["trace_level"].value) == ["OFF"]
    assert list(settings["trace_rate"].value) == ["0"]
    assert ask(channel, "TraceSetting", model_name="two").settings
    missing = refusal(channel, "TraceSetting", model_name="none")
    assert missing == (grpc.StatusCode.NOT_FOUND, "endpoint_not_found")
    trace = message("TraceSettingRequest")
    trace.settings["trace_level"].value.append("TIMESTAMPS")
    assert refused(channel, f"{SERVICE}/TraceSetting", trace) == UNIMPLEMENTED
    logs = ask(channel, "LogSettings").settings
    assert logs["log_info"].bool_param
    assert logs["log_verbose_level"].uint32_param == 0
    assert logs["log_format"].string_param == "ISO8601"
    change = message("LogSettingsRequest")
    change.settings["log_info"].bool_param = False
    assert refused(channel, f"{SERVICE}/LogSettings", change) == UNIMPLEMENTED


@pytest.mark.parametrize("kind", ["System", "Cuda"])
def test_no_memory_is_shared(channel: grpc.Channel, kind: str) -> None:
    """No region is there, none can be registered, and giving one up is fine."""
    assert not ask(channel, f"{kind}SharedMemoryStatus").regions
    missing = refusal(channel, f"{kind}SharedMemoryStatus", name="r")
    assert missing == (grpc.StatusCode.NOT_FOUND, "not_found")
    assert refusal(channel, f"{kind}SharedMemoryRegister", name="r") == UNIMPLEMENTED
    ask(channel, f"{kind}SharedMemoryUnregister", name="r")
    ask(channel, f"{kind}SharedMemoryUnregister")


def test_classification(channel: grpc.Channel) -> None:
    """An output may be asked for as its highest values, with labels where there are any."""
    array = np.array([[1, 3, 2]], np.float32)
    request = infer_request("labelled", {"x": array})
    request.outputs.add(name="y").parameters["classification"].int64_param = 2
    (texts,) = outputs_of(infer(channel, request))["y"].tolist()
    assert texts == [b"3.0:1:pear", b"2.0:2:plum"]
    bad = infer_request("labelled", {"x": array})
    bad.outputs.add(name="y").parameters["classification"].int64_param = -1
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert infer_refusal(channel, bad) == (invalid, "invalid_request")
    text = infer_request("identity-bytes", {"x": np.array([[b"a"]], object)})
    text.outputs.add(name="y").parameters["classification"].int64_param = 1
    assert infer_refusal(channel, text) == (invalid, "invalid_tensor")


def test_tensors_in_shared_memory(channel: grpc.Channel) -> None:
    """Neither inputs nor outputs can be there, which is said."""
    request = infer_request("identity-fp32", {"x": two_rows([1])})
    request.outputs.add(name="y").parameters["shared_memory_region"].string_param = "r"
    assert infer_refusal(channel, request) == UNIMPLEMENTED
    del request.outputs[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    del request.raw_input_contents[:]
    assert infer_refusal(channel, request) == UNIMPLEMENTED


def test_keys(tmp_path: Path) -> None:
    """Every one of these calls needs a key, and shows no more than the key may ask."""
    key = "k" * 43
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n- {{sha256: '{digest}', principal: p, endpoints: [two]}}\n")
    with serving(keys=keys) as (_, channel):
        for name in ("ModelConfig", "ModelStatistics", "RepositoryIndex", "TraceSetting"):
            unauthenticated = (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
            assert refusal(channel, name) == unauthenticated
        allowed = [("authorization", f"Bearer {key}")]
        models = ask(channel, "RepositoryIndex", metadata=allowed).models
        assert [item.name for item in models] == ["two"]
        with pytest.raises(grpc.RpcError) as caught:
            ask(channel, "ModelConfig", name="identity-fp32", metadata=allowed)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
