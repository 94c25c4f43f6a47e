"""Images as text: base64 alone, or in a data: URL (RFC 2397) as web pages have them."""

import base64
import re

_DATA = re.compile(r"data:[^,;]*(;[^,;]*)*,", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def from_text(text: str) -> bytes:
    """Return the file content in `text`: base64, or a data: URL with it; line breaks do not matter.

    Raises ValueError, with a short reason, for anything else, addresses of web pages included: nothing is fetched.
    """
    head = text[:1000]
    if _ADDRESS.match(head):
        raise ValueError("an address: nothing is fetched, send the image itself")
    if data := _DATA.match(head):
        if not data[0].lower().endswith(";base64,"):
            raise ValueError("a data: URL without base64")
        text = text[data.end() :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ValueError("not base64") from error


def data_url(kind: str, content: bytes) -> str:
    """The image file `content` of type image/`kind` as an address that needs no network."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
