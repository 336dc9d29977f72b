"""From options and environment to a config."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lix_cache import ArchiveUnavailable, CacheConfig, ConversationArchive
from lix_cache.embedded import configured_or_private

__all__ = ["Settings", "has_archive"]


def has_archive(url: str) -> bool:
    """Tell whether an archive was made at a URL: its first object says so. One request.

    Raises:
        ConfigError: no such URL.
        ArchiveError: the object store refuses or does not answer, or what it has there is damaged.
    """
    return ConversationArchive(url).store.archive_id() is not None


@dataclass(frozen=True)
class Settings:
    """The global options.

    Attributes:
        redis_url: address of the server.
        prefix: first part of every key.
        archive_dir: folder or URL of the archive.
        env_prefix: first part of the environment variables.
        embedded: use the private server where no other answers.
    """

    redis_url: str | None = None
    prefix: str | None = None
    archive_dir: str | None = None
    env_prefix: str = "LIX_CACHE"
    embedded: bool = False

    def config(self) -> CacheConfig:
        """Return the config to work with.

        The command line looks after a store: it starts no evictor of its own, and
        it never takes the archive alone for the whole because Redis is away.

        Raises:
            ConfigError: an option or a variable is invalid.
        """
        given = {
            "redis_url": self.redis_url,
            "redis_key_prefix": self.prefix,
        }
        config = CacheConfig.from_env(self.env_prefix).replace(
            evictor_enabled=False,
            flush_on_exit=False,
            on_redis_error="raise",
            on_cache_error="raise",
            **{name: value for name, value in given.items() if value is not None},
        )
        if self.archive_dir is not None:
            # A folder that is named wins over a URL in the environment.
            is_url = "://" in self.archive_dir
            place = {"archive_url": self.archive_dir} if is_url else {"archive_url": None}
            folder = {} if is_url else {"archive_dir": os.path.expanduser(self.archive_dir)}
            config = config.replace(**place, **folder)
        if self.embedded:
            return configured_or_private(config).config(config)
        return config

    def config_to_look(self) -> CacheConfig:
        """Return the config for a look at the whole store, which may be a new one without an archive.

        An archive that is named by an option must be there. Redis names the archive of a store that was
        used, so a look from a wrong place is an ArchiveMismatch.
        """
        return self.config() if self.archive_dir is None else self.config_of_store()

    def config_of_store(self) -> CacheConfig:
        """Return the config for work on what is there: the archive must be.

        The library makes it at its first add. Here one that is not there is a slip in its name, and what
        only Redis has would pass for the whole.

        Raises:
            ConfigError: an option or a variable is invalid.
            ArchiveError: there is no such folder, no archive at the URL, or no answer from there.
        """
        config = self.config()
        variable = f"{self.env_prefix.rstrip('_').upper()}_ARCHIVE"
        if config.archive_url:
            if not has_archive(config.archive_url):
                raise ArchiveUnavailable(
                    f"there is no archive at {config.archive_url!r}; name it with --archive-dir or "
                    f"{variable}_URL (the first add to a session makes it)"
                )
            return config
        try:
            os.stat(config.archive_dir)
        except FileNotFoundError:
            raise ArchiveUnavailable(
                f"the archive folder {config.archive_dir!r} does not exist; name it with --archive-dir or "
                f"{variable}_DIR (the first add to a session makes it)"
            ) from None
        except OSError:
            pass  # said by the first look into it
        return config
