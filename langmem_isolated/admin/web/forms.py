"""Forms: what a browser sent, bounded, and only from a page of ours."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

MOST_BYTES = 64 * 1024
MOST_FIELDS = 100
TOKEN_FIELD = "csrf_token"  # noqa: S105 - the field's name
# For scripts that send no form.
TOKEN_HEADER = "X-CSRF-Token"  # noqa: S105 - the header's name
_FORM = "application/x-www-form-urlencoded"
# What browsers say of who sends a form (Fetch Metadata); older ones and programs say nothing.
_OWN_SITES = (None, "same-origin", "none")


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form, the last of those that have one name.

    Raises:
        HTTPException: 403 from another site, 413 beyond 64 KiB, 415 for another content type, 400
            for what is no form.
    """
    if request.headers.get("sec-fetch-site") not in _OWN_SITES:
        raise HTTPException(403, "This form came from another site. Nothing was done.")
    body = await _bounded(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != _FORM:
        raise HTTPException(415, f"A form must be {_FORM}. Nothing was done.")
    try:
        fields = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"
        )
    except ValueError:
        raise HTTPException(400, "This is no form of UTF-8 text. Nothing was done.") from None
    return dict(fields)


def token_of(request: Request, form: Mapping[str, str]) -> str:
    """The CSRF token that came with a form, or in a header; empty where none did."""
    return form.get(TOKEN_FIELD) or request.headers.get(TOKEN_HEADER, "")


async def _bounded(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"A form may have {MOST_BYTES:,} bytes. Nothing was done.")
    return body
