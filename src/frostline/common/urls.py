"""Addresses as they may be shown and logged."""

import re


def hide_credentials(text: str) -> str:
    """Cut `user:password@` and what follows a `?` or `#` out of each address in `text`."""
    # A password may have a "/": what follows a ":" and is no port belongs to it, up to the last "@".
    without_password = re.sub(r"://(?:[^/\s]*|[^/\s:\[]*:(?!\d+/)\S*)@", "://", text)
    if re.match(r"\w[\w+.-]*://", text):  # an address, and nothing else
        return re.split("[?#]", without_password)[0]
    return re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1", without_password)
