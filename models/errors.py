"""What the user got wrong: the only errors that the command line turns into one line."""


class InputError(ValueError):
    """A bad argument, file or folder, with a message that stands alone."""


def require(ok, function, argument, condition, got):
    """Raise InputError in the format of otkernels' errors unless ``ok``."""
    if not ok:
        raise InputError(f"{function}: {argument} must {condition}; got {got}")
