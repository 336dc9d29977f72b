"""What users call: a private server, or the one that runs already."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any
from urllib.parse import quote

from lix_cache._advice import NAMED_REDIS, PRIVATE_REDIS, note_private
from lix_cache._log import logger
from lix_cache.arguments import config_of
from lix_cache.checks import check_path, check_seconds, given
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.embedded.binary import ServerBinary
from lix_cache.embedded.private import PrivateServer
from lix_cache.errors import ConfigError, NoRedisServer, RedisUnavailable
from lix_cache.hot.clients import lazy_client
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.trouble import raise_translated

__all__ = ["DATA_DIR_VARIABLE", "URL_VARIABLE", "EmbeddedRedis", "configured_or_private", "ensure_redis"]

#: Environment variable with the address of the server to use, before any setting.
URL_VARIABLE = "LIX_CACHE_REDIS_URL"
#: Environment variable with the folder for the private server's data.
DATA_DIR_VARIABLE = "LIX_CACHE_DATA_DIR"

#: The settings that say which server, as opposed to how it is used.
_WHICH_SERVER = (
    "redis_host",
    "redis_port",
    "redis_username",
    "redis_password",
    "redis_url",
    "redis_ssl",
    "redis_ssl_ca_certs",
    "redis_ssl_certfile",
    "redis_ssl_keyfile",
    "redis_ssl_check_hostname",
)
_NOT_RUNNING = "a private server that is not running"

#: Starting and stopping take turns among the threads of a process.
_lock = threading.RLock()


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held it, and that thread does not exist here.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def ensure_redis(
    config: CacheConfig | None = None, *, data_dir: str | os.PathLike[str] | None = None
) -> EmbeddedRedis:
    """Return a Redis server to work with: one that runs already, else a private one.

    In this order: the address in ``LIX_CACHE_REDIS_URL``; the server the config names,
    if there is one; a private server, started now or by another process before.

    Args:
        config: settings; ``CacheConfig()`` by default, that is localhost port 6379.
        data_dir: folder of a private server, see :class:`EmbeddedRedis`.

    Raises:
        RedisAuthError: a server is there and refuses the password or the user.
        RedisDatabaseError: a server is there without one of the configured databases.
        RedisUnavailable: the server of ``LIX_CACHE_REDIS_URL`` cannot be reached, or a
            server is there but cannot serve now.
        NoRedisServer: no server is there and none could be started.
    """
    config = config_of(config)
    url = os.environ.get(URL_VARIABLE)
    if url:
        # The caller asked for this server by name: another one instead would look like
        # an empty one, so there is no falling back.
        config = config.replace(redis_url=url)
        try:
            _check_server(config)
        except RedisUnavailable as error:
            # The way out that other callers are told of is the one that was taken.
            error.args = (str(error).replace(PRIVATE_REDIS, NAMED_REDIS),)
            raise
        return EmbeddedRedis(existing=config)
    return configured_or_private(config, data_dir)


def configured_or_private(
    config: CacheConfig, data_dir: str | os.PathLike[str] | None = None
) -> EmbeddedRedis:
    """Return the server the config names, if there is one, else a private one.

    What :func:`ensure_redis` does where ``LIX_CACHE_REDIS_URL`` is not set. The command line has
    read that variable into its config, where an option overrides it; and ``--embedded`` says what
    is wanted where no server answers.

    Raises: as :func:`ensure_redis`.
    """
    try:
        _check_server(config)
    except RedisUnavailable as error:
        if not _is_absent(error):
            raise
        logger.info("no Redis server at the configured address, using a private one: {}", error)
        return EmbeddedRedis(data_dir).start()
    return EmbeddedRedis(existing=config)


class EmbeddedRedis:
    """A private Redis server, kept in a folder and shared by all who name that folder.

    ``with EmbeddedRedis() as server:`` starts it, and ``server.config()`` is what caches are made with.

    It listens on a unix socket alone, in a folder that only its owner may enter, and
    keeps its data there from one run to the next. It is shut down, with everything on
    disk, when the last process that uses it stops it or exits. A process that is killed
    leaves it running, and so does one that ends by SIGTERM without exiting in Python's way, as web
    servers do: call :meth:`stop` where the application ends. The next process finds the server and
    stops it in its turn. A forked child may
    use the server for as long as its parent does; to keep it longer, the child calls
    :meth:`start` itself.

    Args:
        data_dir: folder for the data; by default ``$LIX_CACHE_DATA_DIR``, else
            ``$XDG_DATA_HOME/lix-cache``, else ``~/.local/share/lix-cache``. The server
            uses the sub-folder ``redis``.
        binary: program to start; by default what
            :func:`~lix_cache.embedded.find_server_binary` finds.
        existing: settings of a server that runs already. It is only pointed to, never
            started and never stopped.
        start_timeout_seconds: how long a start may take, loading the data included.
        clock: where time comes from.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        binary: ServerBinary | None = None,
        existing: CacheConfig | None = None,
        start_timeout_seconds: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._data_dir: str | None = None
        self._server: PrivateServer | None = None
        self._settings: dict[str, Any] | None = None
        self._source = _NOT_RUNNING
        if existing is not None:
            existing = config_of(existing)
            self._settings = {name: getattr(existing, name) for name in _WHICH_SERVER}
            self._source = f"server at {_address(existing)}"
            return
        check_seconds("start_timeout_seconds", start_timeout_seconds)
        if binary is not None and not isinstance(binary, ServerBinary):
            raise ConfigError(f"binary must be a ServerBinary, {given(binary)}")
        # The real path: two names of one folder must lead to one server.
        self._data_dir = os.path.realpath(
            _default_data_dir() if data_dir is None else check_path("data_dir", data_dir)
        )
        home = os.path.realpath(os.path.join(self._data_dir, "redis"))
        self._server = PrivateServer(home, binary, start_timeout_seconds, clock)

    def __repr__(self) -> str:
        return f"<EmbeddedRedis: {self._source}>"

    @property
    def is_ours(self) -> bool:
        """True for a private server, False for one run by another."""
        return self._server is not None

    @property
    def source(self) -> str:
        """Where the server comes from, in words and without secrets."""
        return self._source

    @property
    def data_dir(self) -> str | None:
        """Folder of a private server's data, None for a server that is not ours."""
        return self._data_dir

    @property
    def url(self) -> str:
        """The server's address; if that of an existing server was given with a password, it is in it.

        Raises:
            NoRedisServer: the private server has not been started, or was stopped.
        """
        config = self.config()
        return config.redis_url or _address(config)

    def config(self, config: CacheConfig | None = None) -> CacheConfig:
        """Return a copy of a config that points to this server.

        Raises:
            NoRedisServer: the private server has not been started, or was stopped.
        """
        if self._settings is None:
            raise NoRedisServer("the private Redis server is not running; call start() first")
        return config_of(config).replace(**self._settings)

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> EmbeddedRedis:
        """Start the private server, or join the one that runs in this folder already.

        Does nothing for an existing server, or when called again.

        Raises:
            NoRedisServer: there is no program to start, the folder cannot be used, or
                the server does not come up in time; the text quotes its log.
        """
        with _lock:
            if self._server is None or self._server.is_used:
                return self
            try:
                record = self._server.enter()
            except OSError as error:
                raise NoRedisServer(f"cannot run a Redis server in {self._data_dir}: {error}") from error
            self._source = record.source
            note_private(record.socket)
            self._settings = {
                "redis_url": f"unix://{quote(os.fsencode(record.socket))}",
                # It has no users and no password, and would refuse another server's.
                "redis_username": None,
                "redis_password": None,
                "redis_ssl": False,
            }
            atexit.register(self._stop_at_exit)
        return self

    def stop(self) -> None:
        """Leave the private server; the last one who does shuts it down.

        Does nothing for an existing server, when called again, or in a forked child.

        Raises:
            RedisUnavailable: the server did not shut down. It goes on running with
                all its data.
        """
        with _lock:
            if self._server is None or not self._server.is_used:
                return
            atexit.unregister(self._stop_at_exit)
            self._settings = None
            self._source = _NOT_RUNNING
            self._server.leave()

    def _stop_at_exit(self) -> None:
        try:
            self.stop()
        except RedisUnavailable as error:
            logger.warning("{}", error)


def _check_server(config: CacheConfig) -> None:
    """Send a PING to each configured database."""
    for db in sorted({config.session_redis_db, config.semantic_redis_db, config.url_cache_redis_db}):
        endpoint = endpoint_for(config.redis, db)
        try:
            # Not create_redis_client: it asks once per process, and the server may
            # have gone since.
            lazy_client(endpoint).ping()
        except Exception as error:  # noqa: BLE001 - raised again, translated
            raise_translated(error, endpoint)


def _is_absent(error: RedisUnavailable) -> bool:
    """Tell an address where nothing listens from a server that is there but busy or hung."""
    import redis.exceptions as rx

    replied = isinstance(error.__cause__, (rx.ResponseError, rx.BusyLoadingError))
    return not replied and not error.maybe_done


def _address(config: CacheConfig) -> str:
    """Return a server's URL without user and password."""
    endpoint = endpoint_for(config.redis, 0)
    if endpoint.scheme == "unix":
        return f"unix://{quote(endpoint.path)}"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{endpoint.scheme}://{host}:{endpoint.port}"


def _default_data_dir() -> str:
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return os.path.expanduser(chosen)
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the XDG specification says to ignore a relative one
        base = os.path.expanduser(os.path.join("~", ".local", "share"))
    return os.path.join(base, "lix-cache")
