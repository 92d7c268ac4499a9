"""An OpenAPI document as one HTML page without scripts, and how both are sent."""

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any

import orjson

from salver.gateway.docs.openapi import Document, server_document
from salver.gateway.http.message import JSON_TYPE, HttpMessage

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem;border-bottom:1px solid #8886}"
    "code,pre{font-family:ui-monospace,monospace;font-size:.9em}"
    "pre{padding:.8rem;overflow:auto;max-height:24rem;border:1px solid #8886;border-radius:4px}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #8884}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())
_HTML_TYPE = b"text/html; charset=utf-8"
_SNIFF = b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
_HEADERS = (
    b"Content-Security-Policy: default-src 'none'; style-src 'sha256-%b'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n%b"
) % (_STYLE_HASH, _SNIFF)
_MAX_DEPTH = 8


def send_docs(message: HttpMessage, document: Document, *, as_page: bool) -> None:
    """Answer with a document, as the page or as JSON."""
    _send(message, _content(document, as_page=as_page), as_page=as_page)


def send_server_docs(message: HttpMessage, *, as_page: bool) -> None:
    """Answer with the document of the data port, which is always the same."""
    _send(message, _server_content(as_page=as_page), as_page=as_page)


@cache
def _server_content(*, as_page: bool) -> bytes:
    return _content(server_document(), as_page=as_page)


def _content(document: Document, *, as_page: bool) -> bytes:
    return render(document).encode() if as_page else orjson.dumps(document)


def _send(message: HttpMessage, content: bytes, *, as_page: bool) -> None:
    if as_page:
        message.respond(200, (content,), _HTML_TYPE, _HEADERS)
    else:
        message.respond(200, (content,), JSON_TYPE, _SNIFF)


def render(document: Document) -> str:
    """Return the page of a document; it fetches nothing and runs nothing."""
    info = document["info"]
    title = escape(info["title"])
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title} <small>{escape(info['version'])}</small></h1>",
        f"<p>{escape(info['description'])}</p>",
    ]
    parts += [
        f'<p>As OpenAPI: <a href="{escape(path)}">{escape(path)}</a></p>'
        for path in document["paths"]
        if path.endswith("/openapi.json") and "{" not in path
    ]
    for path, item in document["paths"].items():
        for method in ("get", "post"):
            if method in item:
                parts += _operation(method, path, item[method])
    parts.append("<h1>Schemas</h1>")
    for name, schema in document["components"]["schemas"].items():
        parts += _component(name, schema)
    parts.append("</body></html>")
    return "".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation['summary'])}</p>"
    body = operation.get("requestBody")
    if body is not None:
        for kind, media in body["content"].items():
            yield f"<p>Body ({escape(kind)}): {_type(media['schema'])}</p>"
            if "example" in media:
                text = orjson.dumps(media["example"], option=orjson.OPT_INDENT_2).decode()
                yield f"<pre>{escape(text)}</pre>"
    yield "<table><tr><th>status</th><th>meaning</th><th>body</th></tr>"
    for status, answer in operation["responses"].items():
        types = ", ".join(_type(media["schema"]) for media in answer["content"].values())
        yield f"<tr><td>{escape(status)}</td><td>{escape(answer['description'])}</td>"
        yield f"<td>{types}</td></tr>"
    yield "</table>"


def _component(name: str, schema: dict[str, Any]) -> Iterator[str]:
    title = f": {escape(schema['title'])}" if "title" in schema else ""
    yield f'<h2 id="{escape(name)}"><code>{escape(name)}</code>{title}</h2>'
    if "description" in schema:
        yield f"<p>{escape(schema['description'])}</p>"
    required = schema.get("required", ())
    yield "<table><tr><th>field</th><th>type</th><th>meaning</th></tr>"
    for field, part in schema.get("properties", {}).items():
        needed = "" if field in required else " (optional)"
        yield f"<tr><td><code>{escape(field)}</code>{needed}</td>"
        yield f"<td>{_type(part)}</td><td>{escape(part.get('description', ''))}</td></tr>"
    yield "</table>"


def _type(schema: dict[str, Any], depth: int = 0) -> str:
    """Return a schema in words, as HTML."""
    if depth > _MAX_DEPTH:
        return "…"
    for keyword, write in _WRITERS.items():
        if keyword in schema:
            return write(schema, depth + 1)
    least, most = schema.get("minimum"), schema.get("maximum")
    text = escape(schema.get("type", "anything"))
    if least is not None:
        text += f" from {_json(least)}"
    return text if most is None else f"{text} up to {_json(most)}"


def _reference(schema: dict[str, Any], depth: int) -> str:
    del depth
    name = escape(schema["$ref"].rsplit("/", 1)[1])
    return f'<a href="#{name}">{name}</a>'


def _constant(schema: dict[str, Any], depth: int) -> str:
    del depth
    return f"<code>{_json(schema['const'])}</code>"


def _choice(schema: dict[str, Any], depth: int) -> str:
    del depth
    return "one of " + ", ".join(f"<code>{_json(value)}</code>" for value in schema["enum"])


def _forms(schema: dict[str, Any], depth: int) -> str:
    return " or ".join(_type(part, depth) for part in schema["anyOf"])


def _sequence(schema: dict[str, Any], depth: int) -> str:
    parts = [
        (f"<b>{escape(item['title'])}</b> " if "title" in item else "") + _type(item, depth)
        for item in schema["prefixItems"]
    ]
    return f"[{', '.join(parts)}]"


def _list(schema: dict[str, Any], depth: int) -> str:
    return f"list of {_type(schema['items'], depth)}"


def _fields(schema: dict[str, Any], depth: int) -> str:
    fields = [
        f"<code>{escape(name)}</code>: {_type(part, depth)}"
        for name, part in schema["properties"].items()
    ]
    return "object with " + ", ".join(fields)


_WRITERS = {
    "$ref": _reference,
    "const": _constant,
    "anyOf": _forms,
    "enum": _choice,
    "prefixItems": _sequence,
    "items": _list,
    "properties": _fields,
}


def _json(value: Any) -> str:
    return escape(orjson.dumps(value).decode())
