from __future__ import annotations

import traceback

import pytest

from aws_hmac import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_from_elsewhere_is_one_line_and_not_obeyed(kind: type[errors.Error]) -> None:
    error = kind("token '\x1b]0;x\x07\x9b31m\u202e é ✓': it says\nTraceback: no\r\tmore")
    assert str(error) == r"token '\x1b]0;x\x07\x9b31m\u202e é ✓': it says Traceback: no  more"
    assert "".join(traceback.format_exception_only(error)).count("\n") == 1
    assert str(kind("all is well")) == "all is well"


def test_every_error_is_public_and_in_the_tree() -> None:
    import aws_hmac

    for kind in KINDS:
        assert getattr(aws_hmac, kind.__name__) is kind
        assert kind.__name__ in (errors.__doc__ or "")


def test_locals_are_forgotten_everywhere() -> None:
    def inner() -> None:
        secret = "hunter2"
        raise ValueError(len(secret))

    def middle() -> None:
        password = "hunter2"
        try:
            inner()
        except ValueError:
            raise errors.Error(password[:0]) from None

    with pytest.raises(errors.Error) as caught:
        middle()

    def held() -> list[str]:
        behind = (caught.value, caught.value.__context__)
        frames = [frame for exc in behind if exc is not None for frame, _ in traceback.walk_tb(exc.__traceback__)]
        return [name for frame in frames for name, value in frame.f_locals.items() if value == "hunter2"]

    assert sorted(held()) == ["password", "password", "secret"]
    errors.forget_locals(caught.value)
    assert held() == []
    assert "in middle" in "".join(traceback.format_exception(caught.value))  # the lines stay
