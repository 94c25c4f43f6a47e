"""Images as text: base64 alone, or in a data: URL (RFC 2397) as web pages have them."""

import base64
import re
from urllib.parse import unquote_to_bytes

_DATA = re.compile(r"data:[^,;]*(;[^,;]*)*,", re.IGNORECASE)
_BASE64 = re.compile(r";\s*base64\s*,$", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_STANDARD = bytes.maketrans(b"-_", b"+/")  # from the alphabet for addresses (RFC 4648, section 5)


def from_text(text: str) -> bytes:
    """Return the file content in `text`: base64, or a data: URL with it or with percent-encoded bytes.

    Base64 may be in lines, of either alphabet, percent-encoded, and without padding.

    Raises ValueError, with a short reason, for anything else, addresses of web pages included: nothing is fetched.
    """
    text = text.strip()
    head = text[:1000]
    if _ADDRESS.match(head):
        raise ValueError("an address: nothing is fetched, send the image itself")
    data = _DATA.match(head)
    content = unquote_to_bytes(text[data.end() if data else 0 :].encode(errors="surrogatepass"))
    if data is None or _BASE64.search(data[0]):
        return _from_base64(content)
    if "%" not in text:  # no image is letters alone: ";base64" was forgotten
        raise ValueError("a data: URL without base64")
    return content


def _from_base64(text: bytes) -> bytes:
    lines = re.split(rb" +", text)
    if len(lines) > 1 and any(len(b"".join(line.split())) % 4 for line in lines):
        raise ValueError("not base64: a space within it, where a + may have been")
    text = b"".join(text.split()).rstrip(b"=").translate(_STANDARD)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError("not base64") from error


def data_url(kind: str, content: bytes) -> str:
    """The image file `content` of type image/`kind` as an address that needs no network."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
