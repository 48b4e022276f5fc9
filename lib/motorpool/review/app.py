"""The page's server: the page itself, photos by the number of their image, and what the page asks for, as JSON."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from motorpool.errors import MotorpoolError
from motorpool.photos.montage import jpeg
from motorpool.photos.source import Images
from motorpool.review.guard import Guard
from motorpool.review.state import RefusedError, Review

_STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
#: The longer side of photos in the grid, and of the one that is looked at closely, in pixels.
_SMALL, _LARGE = 400, 1600
_QUALITY = 85
#: Photos of the grid that are kept as JPEG: 15 KB each.
_KEPT = 512
#: A batch with its answers takes some kilobytes.
_LONGEST = 256 * 1024


def build_app(
    review: Review, images: Images, token: str, port: int, annotator: str, names: Collection[str] = ()
) -> Guard:
    """The ASGI application; ``annotator`` is the name that the page proposes, ``names`` are hosts it is asked by.

    Memory: the JPEG files of the last photos shown, some 8 MB, and one photo while it is decoded.
    """
    files = {file.name: file.read_bytes() for file in _STATIC.iterdir() if file.suffix in _TYPES}
    photo = _pictures(review, images)
    # Browsers keep photos by their address, and the same number is another photo in another lake.
    version = secrets.token_hex(4)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=_TYPES[Path(name).suffix])

    async def show_photo(request: Request) -> Response:
        large = "large" in request.query_params
        data, reason = await run_in_threadpool(photo, request.path_params["image_id"], large)
        if data is None:
            return Response(reason, 404, media_type="text/plain")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    async def about(request: Request) -> Response:
        return JSONResponse({"annotator": annotator, "version": version})

    async def ask(request: Request) -> Response:
        work = _WORK.get(request.path_params["what"])
        if work is None:
            raise HTTPException(404)
        try:
            asked = await _body(request)
            return JSONResponse(await run_in_threadpool(work, review, asked))
        except RefusedError as exc:
            return JSONResponse({"error": str(exc)}, 409)
        except MotorpoolError as exc:
            return JSONResponse({"error": str(exc)}, 500)

    routes = [
        Route("/", page),
        Route("/static/{name}", page),
        Route("/photo/{image_id:int}", show_photo),
        Route("/about", about),
        Route("/ask/{what}", ask, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), token, port, names)


def _pictures(review: Review, images: Images) -> Callable[[int, bool], tuple[bytes | None, str]]:
    """A photo as JPEG by the number of its image, or why there is none."""
    # One at a time: a photo takes up to 240 MB while it is decoded.
    one = threading.Lock()

    def picture(image_id: int, side: int) -> tuple[bytes | None, str]:
        path = review.path(image_id)
        if path is None:
            return None, "no photo of this review"
        photo = images.photo(path, side)
        return (None, photo.reason) if photo.image is None else (jpeg(photo.image, _QUALITY), "")

    small = lru_cache(_KEPT)(lambda image_id: picture(image_id, _SMALL))

    def show(image_id: int, large: bool) -> tuple[bytes | None, str]:
        with one:
            return picture(image_id, _LARGE) if large else small(image_id)

    return show


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a request holds; 400 for anything else, 413 for one that is too long."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > _LONGEST:
            raise HTTPException(413)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(400, "expected JSON") from exc
    if not isinstance(found, dict) or not isinstance(found.get("who"), str):
        raise HTTPException(400, "expected an object with the key `who`")
    return found


def _look(review: Review, asked: dict[str, Any]) -> dict[str, Any]:
    wanted = asked.get("group")
    if wanted is not None and (not isinstance(wanted, int) or wanted >= 2**31):
        raise HTTPException(400, "`group` is a number")
    return review.look(asked["who"], wanted)


def _save(review: Review, asked: dict[str, Any]) -> dict[str, Any]:
    batch, answers, take = asked.get("batch"), asked.get("answers"), asked.get("take")
    if not isinstance(answers, list) or not all(_is_answer(a) for a in answers):
        raise HTTPException(400, "expected `answers`, a list of `id` and `value`")
    if not isinstance(batch, str) or not 0 < len(batch) <= 64 or not isinstance(take, str | None):
        raise HTTPException(400, "expected the texts `batch` and `take`")
    by_image = {a["id"]: a["value"] for a in answers}
    if len(by_image) < len(answers):
        raise HTTPException(400, "two answers to one photo")
    return review.save(asked["who"], batch, by_image, take)


def _is_answer(found: Any) -> bool:
    return isinstance(found, dict) and type(found.get("id")) is int and isinstance(found.get("value", 0), str | None)


_WORK: dict[str, Callable[[Review, dict[str, Any]], dict[str, Any]]] = {
    "look": _look,
    "save": _save,
    "undo": lambda review, asked: review.undo(asked["who"]),
    "later": lambda review, asked: review.later(asked["who"]),
    "split": lambda review, asked: review.split(asked["who"]),
}
