"""Checks of each datatype that the model has, one check for each datatype."""

from functools import partial

from salver.conformance.base import V2, Failed, Level, NotApplicable, Reference, Section
from salver.conformance.outputs import read_answer
from salver.conformance.subject import Subject
from salver.conformance.tensors import (
    BYTES,
    DATATYPES,
    flat,
    integer_range,
    is_integer,
    unfit,
)

SECTION = Section("datatype", "Datatypes as JSON")

_QUOTE = "Each element of the array may be an integer, floating-point number, string or boolean"
_FP16_QUOTE = "Note that fp16 is problematic to communicate explicitly"


def _datatype(datatype: str, subject: Subject) -> None:
    """Send and read elements of one datatype; raises as a check does."""
    request = subject.good_request()
    given = [item for item in request["inputs"] if item.get("datatype") == datatype]
    specs = [spec for spec in subject.specs("outputs") if spec.datatype == datatype]
    if not given and not specs:
        raise NotApplicable(f"the model has no {datatype} tensor")
    answer = read_answer(subject.infer(request))
    for spec in specs:
        for value in answer.output(spec.name).data:
            if reason := unfit(datatype, value):
                raise Failed(f"output {spec.name!r}: {reason}")
    _refuses_unfit(datatype, subject)


def _refuses_unfit(datatype: str, subject: Subject) -> None:
    """Demand an error for an element that no coercion can save."""
    request = subject.good_request()
    for item in request["inputs"]:
        if item.get("datatype") != datatype or not flat(item.get("data", [])):
            continue
        values = flat(item["data"])
        values[0] = "no number" if datatype not in (BYTES, "BOOL") else {"no": "element"}
        item["data"] = values
        exchange = subject.infer(request)
        if exchange.status < 400:  # noqa: PLR2004
            raise Failed(f"{values[0]!r} is accepted as an element of {datatype}")
        return


def _demand(datatype: str) -> str:
    if datatype == BYTES:
        what = "strings"
    elif datatype == "BOOL":
        what = "true and false"
    else:
        what = "numbers"
    return f"{datatype} elements are {what} in JSON, both ways; what cannot be one is refused."


for _name in DATATYPES:
    SECTION.add(
        _name.lower(),
        _demand(_name),
        Level.RECOMMENDED if _name == "FP16" else Level.REQUIRED,
        Reference(V2, "Tensor Data", _FP16_QUOTE if _name == "FP16" else _QUOTE),
        partial(_datatype, _name),
    )


@SECTION.check(
    Level.RECOMMENDED, V2, "Tensor Data", "return an error if an unexpected value is received"
)
def integer_overflow(subject: Subject) -> None:
    """A number that does not fit its integer datatype is refused instead of wrapped."""
    request = subject.good_request()
    for item in request["inputs"]:
        if is_integer(item.get("datatype", "")) and flat(item.get("data", [])):
            values = flat(item["data"])
            values[0] = integer_range(item["datatype"])[1] + 1
            item["data"] = values
            if subject.infer(request).status < 400:  # noqa: PLR2004
                raise Failed(f"{values[0]} is accepted as {item['datatype']}")
            return
    raise NotApplicable("the model has no integer input")
