"""Defects in refusals and extensions, each with the check that is meant for it."""

from tests.conformance.breaks import (
    DATATYPE,
    INFER,
    MODEL,
    SERVER,
    answers,
    body,
    cut_raw,
    drop_id_of_binary,
    drop_length,
    drops,
    header,
    leaves_out,
    more_raw,
    sets,
    status,
)

REFUSAL = {
    "broken JSON is answered": leaves_out("refusal.malformed_json", "json"),
    "an empty body is answered": leaves_out("refusal.empty_body", "empty"),
    "a list is answered": leaves_out("refusal.no_object", "object"),
    "no inputs are answered": leaves_out("refusal.no_inputs", "inputs"),
    "a missing input is made up": leaves_out("refusal.missing_input", "missing input"),
    "inputs are taken by position": leaves_out(
        "refusal.renamed_input", "missing input", "unknown input"
    ),
    "an extra input is dropped": leaves_out("refusal.extra_input", "unknown input"),
    "an unknown output is dropped": leaves_out("refusal.unknown_output", "unknown output"),
    "an input needs no name": leaves_out("refusal.no_name", "no name"),
    "an input needs no shape": leaves_out("refusal.no_shape", "no shape"),
    "an input needs no datatype": leaves_out("refusal.no_datatype", "no datatype"),
    "an input needs no data": leaves_out("refusal.no_data", "no data"),
    "any datatype is taken": leaves_out("refusal.unknown_datatype", "unknown datatype"),
    "another datatype is taken": leaves_out("refusal.other_datatype", "other datatype"),
    "datatypes are taken without case": leaves_out("refusal.datatype_case", "datatype case"),
    "missing elements are made up": leaves_out("refusal.too_little_data", "little data"),
    "elements left are dropped": leaves_out("refusal.too_much_data", "much data"),
    "negative dimensions are taken": leaves_out("refusal.negative_shape", "shape negative"),
    "fractions of dimensions are cut": leaves_out("refusal.fractional_shape", "shape fraction"),
    "the product of a shape wraps": leaves_out("robustness.huge_shape", "shape wraps"),
    "any rank is taken": leaves_out("refusal.other_rank", "rank"),
    "any form is taken": leaves_out("refusal.other_form", "form"),
    "any model infers": leaves_out("refusal.unknown_model", "unknown model infer"),
    "any version infers": leaves_out("refusal.unknown_version", "unknown version"),
    "inference is asked with GET": leaves_out("refusal.method", "method"),
    "a wrong request is the server's fault": answers(
        "infer error", "refusal.callers_status", status(500)
    ),
    "a wrong request is 200": answers("infer error", "refusal.too_little_data", status(200)),
    "a refusal is HTML": answers("infer error", "refusal.malformed_json", body(b"<h1>400</h1>")),
    "a refusal is text/html": answers(
        "infer error", "refusal.error_content_type", header("Content-Type", "text/html")
    ),
    "a refusal is an object": answers(
        "infer error", "refusal.no_object", sets("error", {"code": 1})
    ),
    "a wrong request leaves damage": leaves_out("refusal.still_answers", "damage"),
}
BINARY = {
    "binary inputs are read backwards": leaves_out("binary.inputs", "binary backwards"),
    "binary inputs are not taken": leaves_out("binary.inputs", "refuses binary"),
    "inputs are of one kind": leaves_out("binary.mixed_inputs", "refuses mixed"),
    "binary data beside JSON is ignored": leaves_out("binary.mixed_inputs", "mixed ignored"),
    "binary data comes after all JSON": leaves_out("binary.mixed_inputs", "mixed order"),
    "outputs are always binary": leaves_out("binary.default_is_json", "always binary"),
    "outputs are never binary": leaves_out("binary.one_output", "never binary"),
    "binary_data_output is ignored": leaves_out("binary.all_outputs", "ignores all"),
    "an output cannot override": leaves_out("binary.output_overrides", "no override"),
    "the length of JSON is missing": answers("infer", "binary.answer_length", drop_length),
    "binary data is cut": answers("infer", "binary.all_outputs", cut_raw),
    "binary data goes on": answers("infer", "binary.one_output", more_raw),
    "a binary answer lost its id": answers("infer", "binary.request_id", drop_id_of_binary),
    "too few bytes are taken": leaves_out("binary.size_below_shape", "size little"),
    "too many bytes are taken": leaves_out("binary.size_above_shape", "size much"),
    "sizes go past the end": leaves_out("binary.size_past_end", "size end", "bytes left"),
    "negative sizes are taken": leaves_out("binary.negative_size", "size negative"),
    "bytes are left": leaves_out("binary.bytes_left", "bytes left"),
    "the length of JSON goes past the end": leaves_out(
        "binary.length_past_end", "length end", "json"
    ),
    "the length of JSON is no number": leaves_out("binary.length_no_number", "length number"),
    "the length of JSON cuts it": leaves_out("binary.length_inside_json", "json"),
    "BYTES go past the end": leaves_out("binary.bytes_past_end", "bytes end"),
}
EXTENSION = {
    "statistics are empty": answers("stats", "extension.statistics", sets("model_stats", [])),
    "statistics lack durations": answers(
        "stats",
        "extension.statistics",
        lambda reply: reply.document["model_stats"][0].pop("inference_stats"),
    ),
    "statistics stand still": answers(
        "stats",
        "extension.statistics_count",
        lambda reply: reply.document["model_stats"][0].update(inference_count=5),
    ),
    "any model has statistics": leaves_out("extension.statistics_unknown", "unknown model stats"),
    "the configuration has no name": answers("config", "extension.configuration", drops("name")),
    "the configuration has OIP's datatypes": answers(
        "config",
        "extension.configuration",
        lambda reply: reply.document["input"][0].update(data_type="FP32"),
    ),
    "any model has a configuration": leaves_out(
        "extension.configuration_unknown", "unknown model config"
    ),
    "the index is an object": answers("index", "extension.repository_index", body(b"{}")),
    "the index lacks the model": answers("index", "extension.repository_index", body(b"[]")),
}
BREAKS = {**SERVER, **MODEL, **INFER, **DATATYPE, **REFUSAL, **BINARY, **EXTENSION}
