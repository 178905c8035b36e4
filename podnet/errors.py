"""The one error that every layer may raise towards a person: something they gave us can't work, and they can change it.

Errors of one layer (InvalidObject, ApplyError, CniError, ApiError, ...) live in that layer.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user, as one clear sentence that says what to do. Programs print it and end with exit code 2."""
