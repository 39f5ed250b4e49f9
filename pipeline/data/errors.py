"""Errors that are the user's to mend: they name the file and entry, what was found and what was expected."""


class BadInput(ValueError):
    """An image, annotation, file or setting from outside is not usable; the message says where, what and why."""
