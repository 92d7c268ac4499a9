"""Whether a version can take another's place without any caller noticing."""

from collections.abc import Iterator

from salver.core.signature import VARIABLE, Signature, TensorSpec


def differences(old: Signature, new: Signature) -> list[str]:
    """Return what callers of ``old`` would notice of ``new``, in words; empty if nothing.

    ``new`` must take whatever ``old`` takes and give whatever ``old`` gives; it may take more.
    """
    return [*_inputs(old, new), *_outputs(old, new)]


def _inputs(old: Signature, new: Signature) -> Iterator[str]:
    wanted = {spec.name: spec for spec in old.inputs}
    given = {spec.name: spec for spec in new.inputs}
    for name, spec in wanted.items():
        if name not in given:
            yield f"it does not take input {name!r}"
            continue
        other = given[name]
        if other.datatype != spec.datatype:
            yield f"input {name!r} is {other.datatype} instead of {spec.datatype}"
        if not _takes(other, spec):
            yield f"input {name!r} has shape {list(other.shape)} instead of {list(spec.shape)}"
        if spec.optional and not other.optional:
            yield f"input {name!r} may not be left out any more"
        yield from _columns(other, spec)
    for name, spec in given.items():
        if name not in wanted and not spec.optional:
            yield f"it needs input {name!r}, which callers do not send"


def _outputs(old: Signature, new: Signature) -> Iterator[str]:
    given = {spec.name: spec for spec in new.outputs}
    for spec in old.outputs:
        other = given.get(spec.name)
        if other is None:
            yield f"it does not give output {spec.name!r}"
            continue
        if other.datatype != spec.datatype:
            yield f"output {spec.name!r} is {other.datatype} instead of {spec.datatype}"
        if not _takes(spec, other):
            yield (
                f"output {spec.name!r} has shape {list(other.shape)} instead of {list(spec.shape)}"
            )


def _takes(taker: TensorSpec, giver: TensorSpec) -> bool:
    """Tell whether every shape that one may have fits the other."""
    if len(taker.shape) != len(giver.shape):
        return False
    return all(want in (VARIABLE, got) for want, got in zip(taker.shape, giver.shape, strict=True))


def _columns(new: TensorSpec, old: TensorSpec) -> Iterator[str]:
    names, before = ([column.name for column in spec.columns] for spec in (new, old))
    if names and before and names != before:
        place = next(
            (i for i, (a, b) in enumerate(zip(names, before, strict=False)) if a != b),
            min(len(names), len(before)),
        )
        yield f"the columns of input {new.name!r} differ from column {place + 1} on"
