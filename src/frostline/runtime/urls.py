"""Addresses as they may be shown and logged."""

import re


def hide_credentials(text: str) -> str:
    """Cut `user:password@` and what follows a `?` or `#` out of an address; text without "://" stays as it is."""
    if "://" not in text:
        return text
    return re.split("[?#]", re.sub(r"://[^/\s]*@", "://", text))[0]
