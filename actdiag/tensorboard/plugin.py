"""The tab's backend in TensorBoard: routes that are read only, checked, and answered without a traceback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboard import context as request_context
from tensorboard import errors
from tensorboard.backend import experiment_id, http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from actdiag.tensorboard.answers import ROUTES, answer
from actdiag.tensorboard.cache import Cache
from actdiag.tensorboard.log import Logs
from actdiag.tensorboard.provider import Experiment, ProviderLogs
from actdiag.tensorboard.refusal import NOT_THERE, UNREADABLE, Refusal
from actdiag.write import tags
from actdiag.write.plain import strict_json

logger = logging.getLogger("actdiag")

STATIC = Path(__file__).parent / "static"
_MIME = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png"}
_NOT_ALLOWED = 405

Serve = Callable[[wrappers.Request], Any]


def make_plugin(context: Any) -> ActdiagPlugin:
    """The plugin, over the data that TensorBoard has read."""
    return ActdiagPlugin(context)


class ActdiagPlugin(base_plugin.TBPlugin):  # type: ignore[misc] # TensorBoard asks for a subclass, and is untyped
    """The `actdiag` tab. `static`: the folder of the screen's files, which are listed once."""

    plugin_name = tags.PLUGIN

    def __init__(self, context: Any, static: Path = STATIC) -> None:
        self._provider = context.data_provider
        self._cache = Cache()
        self._files = static_files(static)
        self._problem = sampled(getattr(context, "flags", None))

    def get_plugin_apps(self) -> dict[str, Any]:
        """Path -> WSGI application."""
        apps: dict[str, Any] = {f"/{route}": _application(self._answering(route)) for route in ROUTES}
        return {**apps, "/static/*": _application(self._static)}

    def is_active(self) -> bool:
        """False: the tab is shown where there are data of the plugin's name, which TensorBoard sees by itself."""
        return False

    def frontend_metadata(self) -> Any:
        """Where the screen begins."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="actdiag")

    def _answering(self, route: str) -> Serve:
        def serve(request: wrappers.Request) -> Any:
            made = answer(self._logs(request), route, request.args.to_dict())
            if isinstance(made, bytes):
                return http_util.Respond(request, made, "application/octet-stream")
            return _json(request, made)

        return serve

    def _logs(self, request: wrappers.Request) -> Logs:
        # what tensorboard.plugin_util does, which would import an HTML sanitizer and its deprecation warning
        context = request_context.from_environ(request.environ)
        identity = request.environ.get(experiment_id.WSGI_ENVIRON_KEY, "")
        experiment = Experiment(self._provider, context, identity)
        return _Told(ProviderLogs(experiment, self._cache), self._problem)

    def _static(self, request: wrappers.Request) -> Any:
        name = request.path.rpartition("/static/")[2]
        path = self._files.get(name)
        if path is None:
            raise Refusal(NOT_THERE, f"there is no file {name!r:.80}")
        return http_util.Respond(request, path.read_bytes(), _MIME[path.suffix])


class _Told:
    """Logs, with what is wrong with all of them."""

    def __init__(self, logs: Logs, problem: str | None) -> None:
        self._logs, self._problem = logs, problem
        self.one = logs.one

    def all(self) -> tuple[Any, str | None]:
        """As the logs, and the problem."""
        found, problem = self._logs.all()
        return found, problem or self._problem


def static_files(folder: Path) -> Mapping[str, Path]:
    """Name -> path of what may be served; nothing where the folder is missing."""
    if not folder.is_dir():
        return {}
    return {path.name: path for path in folder.iterdir() if path.suffix in _MIME and path.is_file()}


def sampled(flags: Any) -> str | None:
    """What to tell where TensorBoard was asked to keep a sample of our steps; None where it keeps all."""
    asked = getattr(flags, "samples_per_plugin", None)
    most = asked.get(tags.PLUGIN) if isinstance(asked, Mapping) else None
    if not most:
        return None
    return (
        f"TensorBoard was started with --samples_per_plugin {tags.PLUGIN}={most}: of a longer run it holds a random "
        f"sample of {most} steps"
    )


def _application(serve: Serve) -> Any:
    """A WSGI application that answers GET, and says in plain words why it cannot."""

    @wrappers.Request.application
    def application(request: wrappers.Request) -> Any:
        if request.method != "GET":
            return _json(request, {"error": "only GET is answered"}, _NOT_ALLOWED, [("Allow", "GET")])
        try:
            return serve(request)
        except Refusal as refusal:
            return _json(request, {"error": str(refusal)}, refusal.status)
        except errors.PublicError as error:
            return _json(request, {"error": str(error)}, _public(error.http_code))
        except Exception as error:
            logger.warning("actdiag: a request of the tab failed (%r)", error, exc_info=error)
            return _json(request, {"error": f"this could not be answered ({type(error).__name__})"}, UNREADABLE)

    return application


def _public(code: int) -> int:
    """A status of TensorBoard's own errors; what it calls an error of the server is one of its data."""
    return UNREADABLE if code >= 500 else code


def _json(
    request: wrappers.Request, value: Any, status: int = 200, headers: list[tuple[str, str]] | None = None
) -> Any:
    return http_util.Respond(request, strict_json(value), "application/json", code=status, headers=headers)
