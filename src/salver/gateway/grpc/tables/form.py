"""How a table describes messages, enumerations and calls."""

Field = tuple[str, int, str]
# A type is the name of a scalar, a message or an enumeration. ``*`` before it means repeated, ``%``
# a map from text to it, and ``CHOICE|`` that the field is one of a choice, of which a message has
# one at most. A dot in a message's name puts it into another.
Messages = dict[str, tuple[Field, ...]]
# The names of an enumeration's values, which count from 0.
Enums = dict[str, tuple[str, ...]]
# The messages that calls take and give; ``*`` before one means a stream of them.
Calls = dict[str, tuple[str, str]]
