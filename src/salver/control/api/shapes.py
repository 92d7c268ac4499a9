"""How bodies are read: every problem is told, unknown keys with the nearest known one.

``Shaped`` lets a body hold a document that a struct of the code reads later: its keys are checked
where the body is, and its JSON Schema says them.
"""

import difflib
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

_MAX_HINTS, _MAX_KEY_CHARS = 20, 64


class Body(BaseModel):
    """Base of every body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="wrap")
    @classmethod
    def _hinted(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Name the nearest known key of each unknown one."""
        try:
            return handler(value)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            if not any(map(_is_unknown, problems)):
                raise
            lines = [cls._line(problem, index) for index, problem in enumerate(problems)]
            raise ValidationError.from_exception_data(error.title, lines) from error

    @classmethod
    def _line(cls, problem: Any, index: int) -> InitErrorDetails:
        message = problem["msg"]
        if _is_unknown(problem):
            key = str(problem["loc"][0])
            # Looking for what is near takes long: who sends thousands of keys gets few hints.
            is_short = index < _MAX_HINTS and len(key) <= _MAX_KEY_CHARS
            near = difflib.get_close_matches(key, cls.model_fields, 1) if is_short else []
            message = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
        kind = PydanticCustomError(problem["type"], message)
        return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"])


def _is_unknown(problem: Any) -> bool:
    """Tell whether a problem is an unknown key of this body, not of one inside it."""
    return problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1


class Shaped:
    """Mark of a field that holds a mapping with the keys of a struct, and stays a mapping."""

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self._struct = struct

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return how the field is read: as the struct's model, and then left as it was."""
        del source

        def checked(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            inner(value)
            return value

        return core_schema.no_info_wrap_validator_function(
            checked,
            handler.generate_schema(_model_of(self._struct)),
            serialization=core_schema.simple_ser_schema("any"),
        )


class _Lenient(Body):
    """Takes what the struct takes; that one is read strictly afterwards, or is not strict."""

    model_config = ConfigDict(strict=False)


@cache
def _model_of(struct: type[msgspec.Struct]) -> type[BaseModel]:
    hints = get_type_hints(struct)
    fields: dict[str, Any] = {}
    for item in msgspec.structs.fields(struct):
        kind = _mirrored(hints[item.name])
        if item.required:
            fields[item.name] = (kind, ...)
        elif item.default is not msgspec.NODEFAULT:
            fields[item.name] = (kind, item.default)
        else:
            fields[item.name] = (kind, Field(default_factory=item.default_factory))
    summary = " ".join((struct.__doc__ or "").split("\n\n")[0].split())
    return create_model(struct.__name__, __base__=_Lenient, __doc__=summary, **fields)


def _mirrored(kind: Any) -> Any:
    """Return a type with models in the place of structs, and lists in that of tuples."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _model_of(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return list[_mirrored(arguments[0])]  # type: ignore[misc]
    if origin is UnionType:
        return reduce(or_, map(_mirrored, arguments))
    if origin is None or origin is Literal:
        return kind
    return origin[tuple(map(_mirrored, arguments))]
