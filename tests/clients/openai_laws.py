"""What the scripts that try openai-python share."""


def raises(kind, status, code, call):
    """The error of that class, with that status and code, which `call` must end with."""
    try:
        call()
    except kind as error:
        assert error.status_code == status, error
        assert error.code == code, error
        assert error.type and error.body["message"], error
        return error
    raise AssertionError(f"no {kind.__name__}")
