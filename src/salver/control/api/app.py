"""Puts the API together: routes, errors, the guard in front."""

import secrets
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import salver
from salver.control.api.routes import Services, build_router, root_router
from salver.control.api.security import Guard
from salver.core.errors import (
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
    SalverError,
)
from salver.gateway.statuses import STATUSES
from salver.observe.logs import get_logger

log = get_logger(__name__)

_NOT_FOUND, _METHOD_NOT_ALLOWED = 404, 405
_ID_BYTES = 10


def build_app(services: Services, token: str) -> ASGIApp:
    """Return the API as an ASGI application."""
    app = FastAPI(
        title="Salver control API",
        version=salver.__version__,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(build_router(services), prefix="/api/v1")
    app.include_router(root_router(services))
    app.add_exception_handler(SalverError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    return Guard(app, token, error_response)


def error_response(error: SalverError) -> Response:
    """Return a domain error as the API shows it."""
    request_id = secrets.token_hex(_ID_BYTES)
    body = {"error": error.message, "code": error.code, "request_id": request_id}
    headers = {"x-salver-request-id": request_id}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return Response(
        orjson.dumps(body), STATUSES[error.code].http, headers, media_type="application/json"
    )


async def _domain_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, SalverError)
    return error_response(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in item['loc'][1:]) or 'body'}: {item['msg']}"
        for item in error.errors()[:3]
    ]
    return error_response(InvalidRequest("; ".join(problems)))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == _METHOD_NOT_ALLOWED:
        return error_response(MethodNotAllowed(f"{path} is not asked with {request.method}"))
    if error.status_code == _NOT_FOUND:
        return error_response(RouteNotFound(f"no such path: {path}"))
    return error_response(InvalidRequest(str(error.detail)))


async def _fault(request: Request, error: Exception) -> Response:
    log.error("api_fault", path=request.url.path, exc_info=error)
    kind: Any = type(error).__name__
    return error_response(Internal(f"an internal fault ({kind}); it is in the log of control"))
