"""`/api-docs`: Swagger UI from files of our own, since sites may have no way to a CDN."""

from importlib import resources

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from aiwm.http.gate import PUBLIC
from aiwm.protocol.errors import NotFound

_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="icon" href="api-docs/favicon-32x32.png">
<link rel="stylesheet" href="api-docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="api-docs/swagger-ui-bundle.js"></script>
<script src="api-docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: 'openapi.json', dom_id: '#swagger-ui', deepLinking: true, persistAuthorization: true, filter: true,
  presets: [SwaggerUIBundle.presets.apis], layout: 'BaseLayout', validatorUrl: null
});
"""


def docs_router(title: str) -> APIRouter:
    """The page and its assets."""
    router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])
    page = _PAGE.format(title=title)

    @router.get("/api-docs")
    async def api_docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    @router.get("/api-docs/{name}")
    async def asset(name: str) -> Response:
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        if name not in _TYPES:
            raise NotFound(f"cannot find /api-docs/{name}: there is no such path", code="ROUTE_NOT_FOUND")
        content = resources.files("fastapi_swagger.resources").joinpath(name).read_bytes()
        return Response(content, media_type=_TYPES[name], headers={"Cache-Control": "max-age=86400"})

    return router
