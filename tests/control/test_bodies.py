"""What the API takes from people is text that every database and terminal takes."""

import pytest
from pydantic import ValidationError

from salver.control.api.bodies import ActionBody, ApproveBody


@pytest.mark.parametrize(
    "said",
    [
        {"by": "al\0ice"},
        {"by": "al\nice"},
        {"by": "\x9b1m"},
        {"reason": "a\0b"},
        {"reason": "\x1b"},
    ],
)
def test_control_characters_are_refused(said: dict[str, str]) -> None:
    """In names all of them, in reasons and comments all but tabs and ends of lines."""
    with pytest.raises(ValidationError):
        ActionBody.model_validate(said)
    renamed = {"comment" if name == "reason" else name: text for name, text in said.items()}
    with pytest.raises(ValidationError):
        ApproveBody.model_validate(renamed)


def test_names_and_lines_of_any_language_are_taken() -> None:
    """As they are."""
    body = ActionBody(by="Łukasz 京 🦊", reason="zu spät\r\n\tund à refaire")
    assert (body.by, body.reason) == ("Łukasz 京 🦊", "zu spät\r\n\tund à refaire")
