"""A local page on which people look at photos, many look-alikes at once, and say what they see.

`sources` reads from the lake's tables which photos to look at, in groups of look-alikes. `queue` hands them out in
batches, each photo to one person at a time. `journal` keeps every answer on disk before the page calls it saved, until
it is imported into the table ``annotations``. `state` is what the server does with these, `app` and `guard` speak HTTP,
and `static` is the page. Spark is not used: it starts behind the review, to import the answers.

`app` and `serving` can be imported only where the packages of the extra `review` are installed.
"""

from motorpool.errors import require_packages

#: What the page is served by, beyond what every command needs.
PACKAGES = ("starlette", "uvicorn")


def check_packages() -> None:
    """EnvironmentMissingError, which says what to install, where a package that the page is served by is missing."""
    require_packages("the review page", PACKAGES)
